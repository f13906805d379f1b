// WeightPacker: weights from the host into the GPU's packed layout (layout.h).
#pragma once

#include <cstdint>
#include <mutex>

#include "kernels/cuda/exec.h"
#include "kernels/cuda/layout.h"
#include "kernels/weight.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cuda {

class WeightPacker {
 public:
  explicit WeightPacker(CudaExec& exec) : exec_(&exec) {}

  // As Device::strip_rows.
  [[nodiscard]] static std::int64_t strip_rows(const WeightShape& shape);

  // All bytes zero. Throws std::bad_alloc.
  [[nodiscard]] Weight allocate(const WeightShape& shape) const;

  // As Device::pack_rows and fill_dummy. Throw DeviceError or std::bad_alloc. Work that is launched
  // afterwards waits on the GPU for what a call has left under way; the source may be gone.
  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows);
  void fill_dummy(Weight& weight, std::uint64_t seed);

 private:
  // Whole row tiles from `row` on, as many as staging memory holds; how many rows.
  std::int64_t pack_tiles(Weight& weight, const PackedLayout& l, std::int64_t group, std::int64_t row,
                          const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows);
  void pack_permutation(Weight& weight, const PackedLayout& l, std::int64_t group,
                        const quant::MatrixView& src);
  // Rows inside one tile, which others share.
  void merge_rows(Weight& weight, const PackedLayout& l, std::int64_t group, std::int64_t row,
                  const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows);

  CudaExec* exec_;
  std::mutex mutex_;  // of merge_rows, which reads what others have written
};

}  // namespace nibble::kernels::cuda
