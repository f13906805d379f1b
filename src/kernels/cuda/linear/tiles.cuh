// What the products of many tokens share: cutting the grid into tiles, the ring between the warps that copy
// and those that multiply, and writing results.
#pragma once

#include <algorithm>

#include "kernels/cuda/clusters.h"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/linear/product.h"

namespace nibble::kernels::cuda {

constexpr int kInputRowBytes = 128;  // of a token in a panel
constexpr int kMaxRingBytes = 208 * 1024;

struct PrefillArgs {
  PackedWeight w[2];                    // gate and up of a gated product, both of a pair
  const std::byte* inputs;              // [panel of k][m_pad][128 bytes], swizzled: 64 bf16 or 128 E4M3
  const float* input_scales = nullptr;  // of E4M3: [panel of k][m_pad]
  float* y;
  std::int64_t y_stride;
  float* second_y = nullptr;  // of a pair
  std::int64_t second_y_stride = 0;
  int m;
  int m_pad;
  int first_row_tiles = 0;  // of a pair's first product, whose tiles go before the second one's; else all
  int row_tiles = 0;        // tiles of the grid
  int token_tiles = 0;
  int cluster = 1;  // blocks that split k
  bool accumulate;
  bool bf16_results;  // y points at bf16 numbers
};

// A block's place in the grid: what it multiplies.
struct TileOfGrid {
  int row_tile;
  int token_tile;
};

// A block's part in the launch: tiles first, first + step, ..., of each the `rank`-th part of k.
struct Part {
  int first;
  int step;
  int rank;
};
__device__ __forceinline__ Part part_of_block(const PrefillArgs& args) {
  return {.first = static_cast<int>(blockIdx.x) / args.cluster,
          .step = static_cast<int>(gridDim.x) / args.cluster,
          .rank = static_cast<int>(blockIdx.x) % args.cluster};
}

// Neighbouring blocks share activations and weights: bands of 8 row tiles, tokens outside.
__device__ __forceinline__ TileOfGrid tile_of_grid(const PrefillArgs& args, int index) {
  constexpr int kBand = 8;
  const int band = index / (kBand * args.token_tiles);
  const int rows = min(kBand, args.row_tiles - band * kBand);
  const int rest = index - band * kBand * args.token_tiles;
  return {.row_tile = band * kBand + rest % rows, .token_tile = rest / rows};
}

struct Blocks {
  int begin;
  int end;
};
__device__ __forceinline__ Blocks blocks_of_rank(const PrefillArgs& args, int rank) {
  const int n = args.w[0].num_blocks;
  return {.begin = n * rank / args.cluster, .end = n * (rank + 1) / args.cluster};
}

struct Ring {
  std::byte* stages;
  std::uint32_t filled;  // shared addresses of arrays of barriers
  std::uint32_t drained;
};
__device__ __forceinline__ std::uint32_t barrier_at(std::uint32_t barriers, int i) {
  return barriers + static_cast<std::uint32_t>(i) * sizeof(std::uint64_t);
}

// Stage and parity of a position in the stream of stages.
struct RingState {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
};

// Sets the barriers up; `warps` read a stage. By the whole block.
__device__ __forceinline__ void init_ring(const Ring& ring, int stages, int warps) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      mbarrier_init(barrier_at(ring.filled, i), 1);
      mbarrier_init(barrier_at(ring.drained, i), static_cast<std::uint32_t>(warps));
    }
    mbarrier_init_fence();
  }
  __syncthreads();
}

template <int kCount>
__device__ __forceinline__ void clear(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0.0F;
}

__device__ __forceinline__ float silu_mul(float gate, float up) { return gate / (1.0F + expf(-gate)) * up; }

// Where a product's results go.
struct Results {
  float* y;
  std::int64_t y_stride;
  int m;
  int n;
  bool accumulate;
  bool bf16;
  bool aligned;  // four rows' results of a token can be written at once
};
// Of the first product, or of a pair's second.
__device__ __forceinline__ Results results_of(const PrefillArgs& args, bool second) {
  Results r{.y = second ? args.second_y : args.y,
            .y_stride = second ? args.second_y_stride : args.y_stride,
            .m = args.m,
            .n = second ? args.w[1].n : args.w[0].n,
            .accumulate = args.accumulate,
            .bf16 = args.bf16_results,
            .aligned = false};
  const std::uintptr_t bytes = r.bf16 ? 8 : 16;
  r.aligned = !r.accumulate && r.y_stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(r.y) % bytes == 0;
  return r;
}

__device__ __forceinline__ void store(const Results& to, int token, int row, float value) {
  if (token >= to.m || row >= to.n) return;
  const std::int64_t at = token * to.y_stride + row;
  if (to.bf16) {
    reinterpret_cast<__nv_bfloat16*>(to.y)[at] = __float2bfloat16_rn(value);
    return;
  }
  float* y = to.y + at;
  *y = to.accumulate ? *y + value : value;
}

// Rows [row, row + 4); row is a multiple of 4.
__device__ __forceinline__ void store_quad(const Results& to, int token, int row, const float4& values) {
  if (!to.aligned || row + 4 > to.n) {
    store(to, token, row, values.x);
    store(to, token, row + 1, values.y);
    store(to, token, row + 2, values.z);
    store(to, token, row + 3, values.w);
    return;
  }
  if (token >= to.m) return;
  const std::int64_t at = (token * to.y_stride + row) / 4;
  if (to.bf16) {
    reinterpret_cast<uint2*>(to.y)[at] = {round_pair(values.x, values.y), round_pair(values.z, values.w)};
  } else {
    reinterpret_cast<float4*>(to.y)[at] = values;
  }
}

// Factor of output row `row` in matrix `matrix`; rows past the end take any.
__device__ __forceinline__ float factor_of(const PackedWeight& w, int row) {
  const int tile = min(row / kTileRows, w.num_tiles - 1);
  return row_factor(w, tile_address(w, 0, tile).scales, row % kTileRows);
}

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The cluster size for `tiles` of `steps` steps of k each that makes the busiest block's work least;
// fitting(size): how many clusters run at once.
template <class Fitting>
int choose_cluster(int tiles, int steps, int num_sms, int min_steps, int cluster_cost,
                   const Fitting& fitting) {
  int best_cost = steps * ceil_div(tiles, num_sms);
  int best = 1;
  for (int size = 2; size <= kMaxCluster && steps / size >= min_steps; ++size) {
    const int cost = ceil_div(tiles, fitting(size)) * (ceil_div(steps, size) + cluster_cost);
    if (cost >= best_cost) continue;
    best_cost = cost;
    best = size;
  }
  return best;
}

}  // namespace nibble::kernels::cuda
