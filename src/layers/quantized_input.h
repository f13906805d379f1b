// QuantizedInput: an activation on its way into one or more linear layers, in each format their schemes
// want. Every format is made once, however many layers share the input.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "kernels/args/activation.h"
#include "layers/context.h"

namespace nibble::layers {

class QuantizedInput {
 public:
  enum class Readers : std::uint8_t {
    any,
    fast_linears,  // linear, linear_pair and gated_linear with Precision::fast, which may quantise themselves
  };

  // x: [m, k] f32; `wanted`: the formats of the layers that will ask. Copies lie in the context's arena:
  // the last layer must run before the ArenaScope that is open now ends.
  QuantizedInput(Context& ctx, TensorView x, std::initializer_list<quant::ActivationFormat> wanted,
                 Readers readers = Readers::any);

  // [m, k] f32, for a product whose inputs have this format. It must have been wanted.
  [[nodiscard]] TensorView as(quant::ActivationFormat format) const;

 private:
  std::array<TensorView, quant::kNumActivationFormats> made_{};  // by format; rank 0 = not wanted
};

}  // namespace nibble::layers
