// WeightPacker: weights from the host into the GPU's packed layout (layout.h).
#pragma once

#include <cstdint>
#include <mutex>

#include "kernels/cuda/exec.h"
#include "kernels/weight.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cuda {

class WeightPacker {
 public:
  explicit WeightPacker(CudaExec& exec) : exec_(&exec) {}

  // All weights zero. Throws std::bad_alloc.
  [[nodiscard]] Weight allocate(const WeightShape& shape) const;

  // As Device::pack_rows and fill_dummy. Throw DeviceError or std::bad_alloc.
  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows);
  void fill_dummy(Weight& weight, std::uint64_t seed) const;

 private:
  void merge_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                  std::int64_t src_row, std::int64_t rows);

  CudaExec* exec_;
  std::mutex merge_mutex_;
};

}  // namespace nibble::kernels::cuda
