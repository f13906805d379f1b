// Device: memory and weight packing of one backend.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "kernels/exec.h"
#include "kernels/kernel_table.h"
#include "kernels/weight.h"
#include "nibble/result.h"
#include "nibble/types.h"
#include "quant/matrix_view.h"

namespace nibble::kernels {

class Device {
 public:
  // Rows are packed in tiles of so many on every backend.
  static constexpr std::int64_t kPackRows = 16;

  virtual ~Device() = default;

  // For people: "CPU avx512 (Intel Xeon ...), 2 threads".
  [[nodiscard]] virtual std::string description() const = 0;
  [[nodiscard]] virtual const KernelTable& table() const = 0;
  [[nodiscard]] virtual Exec& exec() = 0;

  // Bytes of its memory that are free; nothing for memory that is the host's.
  [[nodiscard]] virtual std::optional<std::uint64_t> free_memory() const { return std::nullopt; }
  // What weights are multiplied with, and by which kernels, for people: "bf16 (cuda)".
  [[nodiscard]] virtual std::string operand_name() const = 0;

  // Which kernel multiplies routed experts like these, from so many (token, expert) pairs per expert on,
  // ascending from 0; empty where one does for all.
  struct MoeKernelRow {
    float pairs_per_expert;
    std::string_view kernel;
  };
  [[nodiscard]] virtual std::vector<MoeKernelRow> moe_kernels(const WeightShape& experts) const {
    static_cast<void>(experts);
    return {};
  }

  // Packed size of such a weight here, without allocating (for plan).
  [[nodiscard]] virtual std::size_t weight_bytes(const WeightShape& shape) const = 0;

  // Allocates a weight whose rows are then filled by pack_rows or fill_dummy. out_of_memory if the
  // memory cannot be had.
  [[nodiscard]] Result<Weight> allocate_weight(const WeightShape& shape) const {
    auto weights = allocate_weights({&shape, 1});
    if (!weights.ok()) return std::move(weights).error();
    return std::move(weights.value().front());
  }
  // Several at once, in this order: small ones may share memory.
  [[nodiscard]] virtual Result<std::vector<Weight>> allocate_weights(
      std::span<const WeightShape> shapes) const = 0;

  // Rows that are best given to one call of pack_rows; a multiple of kPackRows.
  [[nodiscard]] virtual std::int64_t strip_rows(const WeightShape& shape) const {
    static_cast<void>(shape);
    return kPackRows;
  }

  // Repacks rows [src_row, src_row + rows) of `src` into rows [row, row + rows) of group `group`.
  // Formats and k must agree. Fastest for whole tiles of kPackRows rows. Safe to call from several threads
  // for different tiles or groups.
  virtual void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                         std::int64_t src_row, std::int64_t rows) = 0;

  // Deterministic pseudo-random contents with sensible magnitudes (about 1/sqrt(k)), directly packed.
  virtual void fill_dummy(Weight& weight, std::uint64_t seed) = 0;
};

struct DeviceOptions {
  DeviceKind kind = DeviceKind::cpu;
  int num_threads = 0;         // 0 = all cores this process may use
  std::string isa;             // NIBBLE_ISA; empty = best
  bool reference_moe = false;  // routed experts by the plainest kernel: slow, float32
};

// Makes the device, or says why it is not to be had (unsupported).
Result<std::unique_ptr<Device>> make_device(const DeviceOptions& options);

// GPUs this build can run on. `status` says why there are none.
struct CudaDevices {
  bool is_built = true;            // this build has the backend
  std::vector<std::string> names;  // "NVIDIA H100 80GB HBM3, 132 SMs, 79.1 GiB"
  std::string status;
};
CudaDevices cuda_devices();

// Limits of the first GPU, measured now; 0 = not measured. It may hold a model.
struct GpuLimits {
  double read_bandwidth = 0;  // bytes per second
  double bf16_wgmma = 0;      // operations per second, a multiply-add counts two
};
GpuLimits measure_gpu();

}  // namespace nibble::kernels
