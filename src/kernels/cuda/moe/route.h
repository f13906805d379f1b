// Sorting large batches by expert, on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

// An expert's entries of the sorted list begin at a multiple of this.
inline constexpr std::int32_t kRouteAlign = 8;

// Up to so many slots every block of the decode kernel sorts for itself: more cost more than three launches.
inline constexpr int kMaxBlockSlots = 512;
// Up to so many by comparing, without memory of the ring.
inline constexpr int kMaxComparedSlots = 128;

struct RouteSizes {
  std::int64_t max_sorted;  // entries of Route::sorted
  std::int64_t max_tiles;   // entries of Route::tiles
  std::int64_t work_words;  // int32 of working memory
};
RouteSizes route_sizes(std::int64_t num_slots, std::int64_t num_experts, std::int32_t tile_tokens);

// Three launches. Stable: an expert's slots stay in ascending order.
// `weights` [num_slots] goes with route.sorted_weights.
void launch_route(const std::int32_t* ids, const float* weights, std::int32_t num_slots,
                  std::int32_t num_experts, std::int32_t tile_tokens, const Route& route, std::int32_t* work,
                  cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
