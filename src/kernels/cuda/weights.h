// WeightPacker: weights from the host into the GPU's packed layout (layout.h).
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_set>

#include "kernels/cuda/exec.h"
#include "kernels/cuda/layout.h"
#include "kernels/weight.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cuda {

class WeightPacker {
 public:
  explicit WeightPacker(CudaExec& exec) : exec_(&exec) {}

  // All bytes zero. Throws std::bad_alloc.
  [[nodiscard]] Weight allocate(const WeightShape& shape) const;

  // As Device::pack_rows and fill_dummy. Throw DeviceError or std::bad_alloc.
  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows);
  void fill_dummy(Weight& weight, std::uint64_t seed);

 private:
  // Packs rows from a tile's first on, as many as staging memory holds; how many.
  static std::int64_t pack_tiles_of(Weight& weight, const PackedLayout& l, std::int64_t group,
                                    std::int64_t row, const quant::MatrixView& src, std::int64_t src_row,
                                    std::int64_t rows);
  static void pack_permutation(Weight& weight, const PackedLayout& l, std::int64_t group,
                               const quant::MatrixView& src);
  // Rows inside one tile, which others share.
  void merge_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                  std::int64_t src_row, std::int64_t rows);

  CudaExec* exec_;
  std::mutex mutex_;
  std::unordered_set<const std::byte*> begun_;  // tiles some rows of which are packed
};

}  // namespace nibble::kernels::cuda
