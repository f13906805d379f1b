// Decoder: rows of packed weights back in the host's memory, and products with them in double: what a
// module's reference computes with.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "kernels/device.h"
#include "kernels/weight.h"

namespace nibble::modules {

// Rows of doubles, [rows, width].
struct Rows64 {
  std::int64_t width = 0;
  std::vector<double> values;

  [[nodiscard]] std::int64_t rows() const {
    return width == 0 ? 0 : static_cast<std::int64_t>(values.size()) / width;
  }
  [[nodiscard]] double* row(std::int64_t i) { return values.data() + i * width; }
  [[nodiscard]] const double* row(std::int64_t i) const { return values.data() + i * width; }
};

double dot(const double* a, const float* b, std::int64_t n);

class Decoder {
 public:
  explicit Decoder(kernels::Device& device) : device_(device) {}

  // Rows [begin, end) of one group as float32, valid until the next call. Throws DeviceError, std::bad_alloc.
  const float* rows(const kernels::Weight& weight, std::int64_t group, std::int64_t begin, std::int64_t end);

  // x [m, k] * w^T of one group; x is first quantised where the weight's scheme says so.
  Rows64 product(const Rows64& x, const kernels::Weight& weight, std::int64_t group = 0);

 private:
  kernels::Device& device_;
  Buffer staging_;
  Buffer on_device_;
  std::vector<float> host_;
};

// What a scheme's activation format makes of the rows, through float32.
Rows64 quantised(quant::ActivationFormat format, Rows64 x);

// silu(gate(x)) * up(x) of one group.
Rows64 gated(Decoder& decoder, const Rows64& x, const kernels::Weight& gate, const kernels::Weight& up,
             std::int64_t group);

// down(silu(gate(x)) * up(x)) of one group.
Rows64 gated_mlp(Decoder& decoder, const Rows64& x, const kernels::Weight& gate, const kernels::Weight& up,
                 const kernels::Weight& down, std::int64_t group);

}  // namespace nibble::modules
