// Where a sequence's cache entries lie, looked up by a whole warp for the copies that bring them.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace nibble::kernels::cuda {

// Boxes are the entries that one copy brings; they lie in one page. They are asked for in ascending order; 32
// are looked up at a time.
class BoxSlots {
 public:
  // Entries from end_entry on are not looked up.
  __device__ BoxSlots(const MlaLaunch& launch, int seq, int end_entry, int box_rows)
      : table_(launch.page_tables + static_cast<std::int64_t>(seq) * launch.max_pages),
        page_size_(launch.page_size),
        box_rows_(box_rows),
        end_entry_(end_entry) {}

  // First cache slot of the box that begins at an entry.
  __device__ int slot(int entry) {
    const int box = entry / box_rows_;
    if (box >= first_ + kKnown) {
      const int mine = (box + lane()) * box_rows_;
      first_ = box;
      slot_ = mine < end_entry_ ? table_[mine / page_size_] * page_size_ + mine % page_size_ : -1;
    }
    return __shfl_sync(0xFFFFFFFFU, slot_, box - first_);
  }

 private:
  static constexpr int kKnown = 32;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  const std::int32_t* table_;
  int page_size_;
  int box_rows_;
  int end_entry_;
  int first_ = -kKnown;
  int slot_ = -1;
};

}  // namespace nibble::kernels::cuda
