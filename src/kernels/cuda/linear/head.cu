// Many small products, one per head, with mma.sync: y[i, h] = w[h] x[i, h] and y[i, h] = w[h]^T x[i, h].
//
// A warp keeps one row tile (or, transposed, one block of 64 columns) of a head as the M side of the MMA and
// up to 32 tokens as its N side. A block's warps share a head and its activations, in shared memory as bf16 B
// fragments, or rounded on the way from memory where the product is transposed. The transposed
// product turns the fragments over with movmatrix; its scales belong to the summed side and are multiplied
// into the activations before these are rounded.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/inputs.cuh"
#include "kernels/cuda/linear/product.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;

constexpr int kMaxInputBlocks = 8;  // of k in shared memory at a time

// Blocks of weights a lane asks for at once: 128 bytes, but one at least.
template <Format kFormat>
constexpr int kAhead = LaneCodes<kFormat>::kVectors < 8 ? 8 / LaneCodes<kFormat>::kVectors : 1;

// A lane's share of a block: codes, and scales that lie beside them.
template <Format kFormat>
struct LaneBlock {
  LaneCodes<kFormat> codes;
  LaneScales<kFormat == Format::nvfp4 ? Format::nvfp4 : Format::mxfp4> scales;

  __device__ __forceinline__ void load(const TileAddress& address, int block, int lane) {
    codes.load(address.codes + static_cast<std::int64_t>(block) * block_bytes(kFormat), lane);
    if constexpr (has_narrow_scales(kFormat)) {
      scales.load(address.scales + static_cast<std::int64_t>(block) * scale_block_bytes(kFormat), lane);
    }
  }

  // As load_operands.
  __device__ __forceinline__ RowOperands operands(const PackedWeight& w, const std::byte* tile_scales,
                                                  int block, int step, int lane, float (&scale)[2]) const {
    if constexpr (has_narrow_scales(kFormat)) {
      return scales.operands(step);
    } else {
      return load_operands<kFormat>(w, tile_scales, block, step, lane, scale);
    }
  }
};

// One block of k for all tokens.
template <Format kFormat, int kTokenTiles>
__device__ __forceinline__ void multiply_block(const PackedWeight& w, const std::byte* tile_scales,
                                               const LaneBlock<kFormat>& weights, int block,
                                               const uint4* inputs, int index, int lane,
                                               float (&sums)[kTokenTiles][4]) {
  BlockInputs b[kTokenTiles];
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    b[i] = load_inputs(inputs + i * 32, index, 8 * kTokenTiles, lane);
  }
#pragma unroll
  for (int chunk = 0; chunk < kBlockK / kChunkK; ++chunk) {
    float part[kTokenTiles][4] = {};
    float scale[2];
#pragma unroll
    for (int step = 2 * chunk; step < 2 * chunk + 2; ++step) {
      const RowOperands operands = weights.operands(w, tile_scales, block, step, lane, scale);
#pragma unroll
      for (int split = 0; split < (splits_weights(kFormat) ? 2 : 1); ++split) {
        std::uint32_t a[4];
        decode_step(weights.codes, step, operands, a, split == 1);
#pragma unroll
        for (int i = 0; i < kTokenTiles; ++i) {
          const uint4 half = b[i].halves[step / 2];
          const bool even = step % 2 == 0;
          mma_bf16(has_wide_scales(kFormat) ? part[i] : sums[i], a, even ? half.x : half.z,
                   even ? half.y : half.w);
        }
      }
    }
    if constexpr (has_wide_scales(kFormat)) {
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(scale[j / 2], part[i][j], sums[i][j]);
      }
    }
  }
}

// grid: x = row tiles / kWarps, y = token tiles, z = heads.
template <Format kFormat, int kTokenTiles>
__global__ void __launch_bounds__(kWarps * 32)
    head_product_kernel(const __grid_constant__ Product p, const bool quads_aligned) {
  constexpr int kTokens = 8 * kTokenTiles;
  constexpr int kOctets = kMaxInputBlocks * (kBlockK / 8);
  constexpr int kLoads = kAhead<kFormat>;
  static_assert(kMaxInputBlocks % kLoads == 0, "blocks are multiplied in whole loads");
  __shared__ uint4 inputs[kMaxInputBlocks * 8 * kTokens];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.z);
  const int tile = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const bool has_tile = tile < p.w.num_tiles;
  const int token0 = static_cast<int>(blockIdx.y) * kTokens;
  const TileAddress address = tile_address(p.w, head, min(tile, p.w.num_tiles - 1));
  const std::int32_t* permutation = permutation_of(p.w, head);
  const float* x = p.x + token0 * p.x_stride + head * p.x_head_stride;
  const int tokens = min(kTokens, p.m - token0);

  LaneBlock<kFormat> next[kLoads];
  const auto load_next = [&](int block) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) next[i].load(address, min(block + i, p.w.num_blocks - 1), lane);
  };
  load_next(0);  // weights are constant: asked for before the activations are there
  wait_for_earlier_kernels();
  // Not before: blocks of the next kernel that come while the kernel in front leaves, one multiprocessor
  // earlier than the other, come two to some of them.
  let_next_kernel_start();
  float sums[kTokenTiles][4] = {};
  for (int first = 0; first < p.w.num_blocks; first += kMaxInputBlocks) {
    const int blocks = min(kMaxInputBlocks, p.w.num_blocks - first);
    if (first > 0) __syncthreads();
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kTokens * kOctets; i += kWarps * 32) {
      const int token = i / kOctets;
      const int octet = i % kOctets;
      if (octet >= blocks * (kBlockK / 8)) continue;
      InputOctet values{};
      if (token < tokens) {
        values = load_octet(x + token * p.x_stride, permutation, first * kBlockK + octet * 8, p.w.k,
                            quads_aligned);
      }
      store_octet(reinterpret_cast<std::uint32_t*>(inputs), octet, token, kTokens, values);
    }
    __syncthreads();
    for (int block = 0; has_tile && block < blocks; block += kLoads) {
      LaneBlock<kFormat> weights[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) weights[i] = next[i];
      if (first + block + kLoads < p.w.num_blocks) load_next(first + block + kLoads);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        if (block + i < blocks) {
          multiply_block<kFormat, kTokenTiles>(p.w, address.scales, weights[i], first + block + i, inputs,
                                               block + i, lane, sums);
        }
      }
    }
  }
  if (!has_tile) return;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int row = lane / 4 + j / 2 * 8;
    const float factor = row_factor(p.w, address.scales, row);
#pragma unroll
    for (int i = 0; i < kTokenTiles; ++i) {
      const int token = token0 + i * 8 + lane % 4 * 2 + j % 2;
      if (token < p.m && tile * kTileRows + row < p.w.n) {
        const std::int64_t at = token * p.y_stride + head * p.y_head_stride + tile * kTileRows + row;
        if (p.bf16_results) {
          reinterpret_cast<__nv_bfloat16*>(p.y)[at] = __float2bfloat16_rn(factor * sums[i][j]);
        } else {
          p.y[at] = factor * sums[i][j];
        }
      }
    }
  }
}

// The lane's B fragment of a k16 step for one token.
struct TokenFragment {
  std::uint32_t b0;
  std::uint32_t b1;
};

// What an input of weight row `row` is multiplied by for columns of `chunk`.
template <Format kFormat>
__device__ __forceinline__ float input_scale(const PackedWeight& w, const std::byte* tile_scales, int chunk,
                                             int row) {
  if constexpr (has_wide_scales(kFormat)) return wide_scale(tile_scales, scale_group(w, chunk), row);
  return row_factor(w, tile_scales, row);
}

// grid: x = blocks of 64 columns / kWarps, y = token tiles, z = heads.
template <Format kFormat, int kTokenTiles>
__global__ void __launch_bounds__(kWarps * 32) transposed_product_kernel(const __grid_constant__ Product p) {
  let_next_kernel_start();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.z);
  const int block = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (block >= p.w.num_blocks) {
    wait_for_earlier_kernels();
    return;
  }
  const int token0 = static_cast<int>(blockIdx.y) * kTokenTiles * 8;
  const float* x[kTokenTiles];
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    const int token = min(token0 + i * 8 + lane / 4, p.m - 1);
    x[i] = p.x + token * p.x_stride + head * p.x_head_stride;
  }
  constexpr int kOffsets[4] = {0, 1, 8, 9};
  float sums[4][kTokenTiles][4] = {};  // [16 columns each]
  // Row tiles in flight, with their inputs: as many as there are registers for. Rows past the last tile
  // multiply zeros.
  constexpr int kLoads = kTokenTiles <= 2 || kAhead<kFormat> == 1 ? kAhead<kFormat> : 2;
  LaneBlock<kFormat> next[kLoads];
  const auto load_next = [&](int tile) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      next[i].load(tile_address(p.w, head, min(tile + i, p.w.num_tiles - 1)), block, lane);
    }
  };
  load_next(0);
  wait_for_earlier_kernels();
  for (int first = 0; first < p.w.num_tiles; first += kLoads) {
    LaneBlock<kFormat> loaded[kLoads];
    float all_inputs[kLoads][kTokenTiles][4];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      loaded[u] = next[u];
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = (first + u) * kTileRows + lane % 4 * 2 + kOffsets[j];
          all_inputs[u][i][j] = row < p.w.n ? x[i][row] : 0.0F;
        }
      }
    }
    if (first + kLoads < p.w.num_tiles) load_next(first + kLoads);
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      const LaneBlock<kFormat>& weights = loaded[u];
      const auto& inputs = all_inputs[u];
      const int tile = first + u;
      const std::byte* scales = tile_address(p.w, head, min(tile, p.w.num_tiles - 1)).scales;
      TokenFragment b[kTokenTiles];
#pragma unroll
      for (int chunk = 0; chunk < kBlockK / kChunkK; ++chunk) {
        if (chunk == 0 || (has_wide_scales(kFormat) && !scales_whole_blocks(p.w))) {
          float scale[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            scale[j] = input_scale<kFormat>(p.w, scales, block * (kBlockK / kChunkK) + chunk,
                                            lane % 4 * 2 + kOffsets[j]);
          }
#pragma unroll
          for (int i = 0; i < kTokenTiles; ++i) {
            b[i] = {.b0 = round_pair(inputs[i][0] * scale[0], inputs[i][1] * scale[1]),
                    .b1 = round_pair(inputs[i][2] * scale[2], inputs[i][3] * scale[3])};
          }
        }
#pragma unroll
        for (int step = 2 * chunk; step < 2 * chunk + 2; ++step) {
          float unused[2];
          const RowOperands operands = weights.operands(p.w, scales, block, step, lane, unused);
#pragma unroll
          for (int part = 0; part < (splits_weights(kFormat) ? 2 : 1); ++part) {
            std::uint32_t a[4];
            decode_step(weights.codes, step, operands, a, part == 1);
            const std::uint32_t turned[4] = {transpose_8x8(a[0]), transpose_8x8(a[2]), transpose_8x8(a[1]),
                                             transpose_8x8(a[3])};
#pragma unroll
            for (int i = 0; i < kTokenTiles; ++i) mma_bf16(sums[step][i], turned, b[i].b0, b[i].b1);
          }
        }
      }
    }
  }
  const std::int32_t* permutation = permutation_of(p.w, head);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int kk = block * kBlockK + step * 16 + lane / 4 + j / 2 * 8;
      if (permutation != nullptr) kk = permutation[kk];
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
        const int token = token0 + i * 8 + lane % 4 * 2 + j % 2;
        if (token < p.m && kk >= 0 && kk < p.w.k) {
          p.y[token * p.y_stride + head * p.y_head_stride + kk] = sums[step][i][j];
        }
      }
    }
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

dim3 grid_of(const Product& p, int units, int tokens) {
  return {static_cast<unsigned>(ceil_div(units, kWarps)), static_cast<unsigned>(ceil_div(p.m, tokens)),
          static_cast<unsigned>(p.w.num_groups)};
}

// fn(integral constant) with the tiles of 8 tokens that a block takes.
template <class Fn>
void dispatch_token_tiles(int m, const Fn& fn) {
  if (m <= 8) return fn(std::integral_constant<int, 1>{});
  if (m <= 16) return fn(std::integral_constant<int, 2>{});
  fn(std::integral_constant<int, 4>{});
}

}  // namespace

void launch_head_product(const Product& p, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  const bool quads_aligned =
      reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0 && p.x_head_stride % 4 == 0;
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    dispatch_token_tiles(p.m, [&](auto tiles) {
      constexpr int kTokenTiles = decltype(tiles)::value;
      launch_overlapped(head_product_kernel<kFormat, kTokenTiles>, grid_of(p, p.w.num_tiles, 8 * kTokenTiles),
                        kWarps * 32, 0, launch.stream, p, quads_aligned);
    });
  });
}

void launch_transposed_product(const Product& p, const Launch& launch) {
  if (p.m == 0 || p.w.k == 0) return;
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    dispatch_token_tiles(p.m, [&](auto tiles) {
      constexpr int kTokenTiles = decltype(tiles)::value;
      launch_overlapped(transposed_product_kernel<kFormat, kTokenTiles>,
                        grid_of(p, p.w.num_blocks, 8 * kTokenTiles), kWarps * 32, 0, launch.stream, p);
    });
  });
}

}  // namespace nibble::kernels::cuda
