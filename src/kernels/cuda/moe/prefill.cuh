// Grouped products for many tokens per expert, on wgmma: 128 weight rows per warpgroup (64 of gate and the
// same 64 of up, or 128 of down) times up to 128 tokens.
//
// Weights are decoded once per tile of tokens, into registers, as the A operand; each lane copies the 16
// bytes of a block it needs itself into shared memory and reads them back itself, so that no other thread
// is waited for. Tokens come through a ring of swizzled tiles filled by the copy engine. Both rings run ahead
// across units. Fragments of the next k16 step are decoded while the last one is multiplied.
#pragma once

#include <cstddef>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/moe/prefill.h"
#include "kernels/cuda/moe/ptx.cuh"
#include "kernels/cuda/moe/wgmma.cuh"

namespace nibble::kernels::cuda::moe {

inline constexpr int kWarp = 32;
inline constexpr int kGroupTiles = 4;  // row tiles of one wgmma
inline constexpr int kAtomBytes = 1024;
inline constexpr int kAtomTokens = 8;
inline constexpr int kTokenDepth = 6;

// A block of kWarpgroups warpgroups: more of them where few tokens leave registers free and memory is the
// limit.
template <int kWarpgroups>
struct BlockShape {
  static constexpr int kWarps = kWarpgroups * 4;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kTileTokens = kWarpgroups == 2 ? kPrefillTileTokens : kMiddleTileTokens;
  static constexpr int kTokenStageBytes = kTileTokens / kAtomTokens * kAtomBytes;
  static constexpr int kWeightDepth = kWarpgroups == 2 ? 8 : 6;
  static constexpr int kUnitTiles = 2 * kWarpgroups * kGroupTiles;  // row tiles of one unit
};

// A lane's own copy of a block of both row tiles.
template <Format F>
struct WeightStage {
  static constexpr int kScale = F == Format::nvfp4 ? 8 : 4;
  static constexpr int kHalf = 512 + kWarp * kScale;
  static constexpr int kBytes = 2 * kHalf;
};

template <Format F, int G>
struct PrefillSmem {
  using B = BlockShape<G>;
  static constexpr int kWeights = kTokenDepth * B::kTokenStageBytes;
  static constexpr int kBars = kWeights + B::kWarps * B::kWeightDepth * WeightStage<F>::kBytes;
  static constexpr int kBytes = kBars + 2 * kTokenDepth * 8;
};

__device__ __forceinline__ void copy16(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
template <int kBytes>
__device__ __forceinline__ void copy_small(std::uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ int padded_tokens(const Tile& tile) {
  return (tile.count + kAtomTokens - 1) / kAtomTokens * kAtomTokens;
}

// Byte offset of 16-byte piece `piece` (of 8) of token `token` in block `block` of a tile.
__device__ __forceinline__ std::int64_t piece_offset(const Tile& tile, int num_blocks, int block, int token,
                                                     int piece) {
  const int atoms = padded_tokens(tile) / kAtomTokens;
  const int row = token % kAtomTokens;
  return (std::int64_t{tile.begin} / kAtomTokens * num_blocks + std::int64_t{block} * atoms +
          token / kAtomTokens) *
             kAtomBytes +
         row * 128 + (piece ^ row) * 16;
}

// Units of the grid: all row units of a tile of tokens, then the next tile; block i takes i, i + grid, ...
struct PrefillContext {
  const Tile* tiles;
  const PackedWeight* weights[2];
  const std::byte* tokens;
  int num_blocks;
  int row_units;
  int num_units;
};

// Where a ring's filler is.
struct BlockCursor {
  int unit;
  int block;
  __device__ __forceinline__ void advance(int num_blocks) {
    if (++block < num_blocks) return;
    block = 0;
    unit += static_cast<int>(gridDim.x);
  }
};

// Row tile of a warp's two halves.
template <bool kFirst, int G>
__device__ __forceinline__ int prefill_row_tile(int row_unit, int warp, int half) {
  const int group = warp / kGroupTiles;
  const int w = warp % kGroupTiles;
  return kFirst ? row_unit * G * kGroupTiles + group * kGroupTiles + w
                : row_unit * BlockShape<G>::kUnitTiles + group * 2 * kGroupTiles + half * kGroupTiles + w;
}

// This lane's weights, a ring of its own.
template <Format F, bool kFirst, int G>
struct WeightRing {
  using S = WeightStage<F>;
  static constexpr int kWeightDepth = BlockShape<G>::kWeightDepth;
  const PrefillContext& c;
  std::byte* data;  // of this warp
  int warp;
  int lane;
  BlockCursor fetch;
  const std::byte* codes[2] = {nullptr, nullptr};
  const std::byte* scales[2] = {nullptr, nullptr};
  int to = 0;
  int from = 0;

  __device__ __forceinline__ void locate() {
    const int expert = c.tiles[fetch.unit / c.row_units].expert;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const PackedWeight& w = *c.weights[half];
      // Past the end any rows do: nobody reads the products.
      const int tile =
          min(prefill_row_tile<kFirst, G>(fetch.unit % c.row_units, warp, half), w.num_tiles - 1);
      const TileAddress at = tile_address(w, expert, tile);
      codes[half] = at.codes + lane * 16;
      scales[half] = at.scales + lane / 4 * S::kScale;
    }
  }

  // Always commits a group, so that counting groups counts stages.
  __device__ __forceinline__ void fetch_next() {
    if (fetch.unit < c.num_units) {
      if (fetch.block == 0) locate();
      const std::uint32_t out = shared_address(data) + to * S::kBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        copy16(out + half * S::kHalf + lane * 16, codes[half]);
        copy_small<S::kScale>(out + half * S::kHalf + 512 + lane * S::kScale, scales[half]);
        codes[half] += 512;
        scales[half] += scale_block_bytes(F);
      }
      to = to + 1 == kWeightDepth ? 0 : to + 1;
      fetch.advance(c.num_blocks);
    }
    copy_commit();
  }

  __device__ __forceinline__ void read(LaneCodes<F> (&block_codes)[2], LaneScales<F> (&block_scales)[2]) {
    copy_wait<kWeightDepth - 2>();
    const std::byte* in = data + from * S::kBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      block_codes[half].load(in + half * S::kHalf, lane);
      const std::byte* own = in + half * S::kHalf + 512 + lane * S::kScale;
      if constexpr (F == Format::nvfp4) {
        const uint2 pair = *reinterpret_cast<const uint2*>(own);
        block_scales[half].words[0] = pair.x;
        block_scales[half].words[1] = pair.y;
      } else {
        block_scales[half].words[0] = *reinterpret_cast<const std::uint32_t*>(own);
      }
    }
    from = from + 1 == kWeightDepth ? 0 : from + 1;
  }
};

// The block's tokens. One thread fills; it waits for a stage that was read two blocks ago.
template <int G>
struct TokenRing {
  static constexpr int kStageBytes = BlockShape<G>::kTokenStageBytes;
  const PrefillContext& c;
  std::uint32_t data;
  std::uint32_t bars;
  BlockCursor fetch;
  std::int64_t offset = 0;  // of the next block in memory
  int block_bytes = 0;
  int filled = 0;
  int to = 0;
  std::uint32_t to_parity = 0;
  int from = 0;
  std::uint32_t from_parity = 0;

  [[nodiscard]] __device__ __forceinline__ std::uint32_t full(int stage) const { return bars + 8 * stage; }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t empty(int stage) const {
    return bars + 8 * (kTokenDepth + stage);
  }

  __device__ __forceinline__ void fetch_next() {
    if (fetch.unit >= c.num_units) return;
    if (fetch.block == 0) {
      const Tile tile = c.tiles[fetch.unit / c.row_units];
      offset = std::int64_t{tile.begin} / kAtomTokens * c.num_blocks * kAtomBytes;
      block_bytes = padded_tokens(tile) / kAtomTokens * kAtomBytes;
    }
    if (filled >= kTokenDepth) mbarrier_wait(empty(to), to_parity ^ 1);
    mbarrier_expect(full(to), static_cast<std::uint32_t>(block_bytes));
    bulk_load_cached(data + to * kStageBytes, c.tokens + offset, static_cast<std::uint32_t>(block_bytes),
                     full(to));
    offset += block_bytes;
    ++filled;
    if (++to == kTokenDepth) {
      to = 0;
      to_parity ^= 1;
    }
    fetch.advance(c.num_blocks);
  }
};

// Sums of one unit: acc[half] = rows of the half times kN tokens.
template <Format F, bool kFirst, int G, int kN>
__device__ __forceinline__ void multiply_unit(WeightRing<F, kFirst, G>& weights, TokenRing<G>& tokens,
                                              bool fills, float (&acc)[2][kN / 2]) {
  std::uint32_t a[2][2][4];  // [buffer][half]
  const int num_blocks = tokens.c.num_blocks;
  for (int block = 0; block < num_blocks; ++block) {
    LaneCodes<F> codes[2];
    LaneScales<F> scales[2];
    weights.read(codes, scales);
    if (fills) tokens.fetch_next();
    weights.fetch_next();
    mbarrier_wait(tokens.full(tokens.from), tokens.from_parity);
    __syncwarp();
    std::uint64_t descriptor = swizzled_descriptor(tokens.data + tokens.from * TokenRing<G>::kStageBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_wait<1>();
      if (step == 1 && block > 0 && weights.lane == 0) {
        // All of this warp's products of the last block are done.
        mbarrier_arrive(tokens.empty(tokens.from == 0 ? kTokenDepth - 1 : tokens.from - 1));
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        decode_step(codes[half], step, scales[half].operands(step), a[step % 2][half]);
      }
      wgmma_fence();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        wgmma_bf16<kN>(acc[half], a[step % 2][half], descriptor);
      }
      wgmma_commit();
      descriptor += kDescriptorStep;
    }
    if (++tokens.from == kTokenDepth) {
      tokens.from = 0;
      tokens.from_parity ^= 1;
    }
  }
  wgmma_wait<0>();
  if (weights.lane == 0) {
    mbarrier_arrive(tokens.empty(tokens.from == 0 ? kTokenDepth - 1 : tokens.from - 1));
  }
}

// Good to a few units in the last place; the result is rounded to bf16.
__device__ __forceinline__ float silu_of(float x) { return __fdividef(x, 1.0F + __expf(-x)); }

// Factors of rows g and g + 8 of both halves; 0 past the last row tile, which makes hidden padding 0.
__device__ __forceinline__ void prefill_factors(const PrefillContext& c, int expert,
                                                const int (&row_tiles)[2], int lane, float (&factors)[2][2]) {
  for (int half = 0; half < 2; ++half) {
    const PackedWeight& w = *c.weights[half];
    const std::byte* scales = tile_address(w, expert, min(row_tiles[half], w.num_tiles - 1)).scales;
    for (int r = 0; r < 2; ++r) {
      factors[half][r] = row_tiles[half] < w.num_tiles ? row_factor(w, scales, lane / 4 + 8 * r) : 0.0F;
    }
  }
}

// Hidden values as swizzled bf16. Lanes of neighbouring rows swap columns so that each stores pairs.
template <int kN>
__device__ __forceinline__ void write_hidden(const PrefillParams& params, const Tile& tile, int row_tile,
                                             int lane, const float (&acc)[2][kN / 2],
                                             const float (&factors)[2][2]) {
  const int num_blocks = params.p.down.num_blocks;
  const int block = row_tile / kGroupTiles;
  if (block >= num_blocks) return;
  const bool odd = lane / 4 % 2 != 0;
  const int first_token = lane % 4 * 2 + static_cast<int>(odd);
  std::byte* out[2];
  for (int r = 0; r < 2; ++r) {
    out[r] = reinterpret_cast<std::byte*>(params.h) + lane / 8 * 4 +
             piece_offset(tile, num_blocks, block, first_token, row_tile % kGroupTiles * 2 + r);
  }
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float values[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float gate = acc[0][4 * j + 2 * r + i] * factors[0][r];
        const float up = acc[1][4 * j + 2 * r + i] * factors[1][r];
        values[i] = silu_of(gate) * up;
      }
      const float other = __shfl_xor_sync(0xFFFFFFFFU, odd ? values[0] : values[1], 4);
      const std::uint32_t pair = odd ? round_pair(other, values[1]) : round_pair(values[0], other);
      if (8 * j + first_token < tile.count) {
        *reinterpret_cast<std::uint32_t*>(out[r] + j * kAtomBytes) = factors[0][r] == 0.0F ? 0U : pair;
      }
    }
  }
}

template <int kN>
__device__ __forceinline__ void write_partial(const PrefillParams& params, const Tile& tile, int row_tile,
                                              int lane, const float (&acc)[2][kN / 2],
                                              const float (&factors)[2][2]) {
  const MoeParams& p = params.p;
  const int row = row_tile * kTileRows + lane / 4;
  constexpr int kHalfRows = kGroupTiles * kTileRows;
  const std::int32_t* slots = p.route.sorted + tile.begin;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * j + lane % 4 * 2 + i;
      if (token >= tile.count) continue;
      const int slot = slots[token];
      const float weight = p.weights[slot];
      float* out = p.partial + std::int64_t{slot} * p.down.n + row;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int offset = half * kHalfRows + 8 * r;
          if (row + offset < p.down.n) {
            __stcs(out + offset, weight * (acc[half][4 * j + 2 * r + i] * factors[half][r]));
          }
        }
      }
    }
  }
}

template <Format F, bool kFirst, int G, int kN>
__device__ __forceinline__ void run_unit(const PrefillParams& params, const PrefillContext& c, int unit,
                                         WeightRing<F, kFirst, G>& weights, TokenRing<G>& tokens,
                                         bool fills) {
  float acc[2][kN / 2] = {};
  multiply_unit<F, kFirst, G, kN>(weights, tokens, fills, acc);
  const Tile tile = c.tiles[unit / c.row_units];
  const int row_unit = unit % c.row_units;
  const int row_tiles[2] = {prefill_row_tile<kFirst, G>(row_unit, weights.warp, 0),
                            prefill_row_tile<kFirst, G>(row_unit, weights.warp, 1)};
  float factors[2][2];
  prefill_factors(c, tile.expert, row_tiles, weights.lane, factors);
  if (kFirst) {
    write_hidden<kN>(params, tile, row_tiles[0], weights.lane, acc, factors);
  } else {
    write_partial<kN>(params, tile, row_tiles[0], weights.lane, acc, factors);
  }
}

// Units with the narrowest product their tokens fit. No more kinds than these: with six the compiler runs out
// of registers.
template <Format F, bool kFirst, int G>
__device__ __forceinline__ void run_units(const PrefillParams& params, const PrefillContext& c,
                                          WeightRing<F, kFirst, G>& weights, TokenRing<G>& tokens,
                                          bool fills) {
  for (int unit = static_cast<int>(blockIdx.x); unit < c.num_units; unit += static_cast<int>(gridDim.x)) {
    const int size = (c.tiles[unit / c.row_units].count + 15) / 16;
    if constexpr (G == 2) {
      switch (size) {
        case 1:
        case 2: run_unit<F, kFirst, G, 32>(params, c, unit, weights, tokens, fills); break;
        case 3:
        case 4: run_unit<F, kFirst, G, 64>(params, c, unit, weights, tokens, fills); break;
        case 5:
        case 6: run_unit<F, kFirst, G, 96>(params, c, unit, weights, tokens, fills); break;
        default: run_unit<F, kFirst, G, 128>(params, c, unit, weights, tokens, fills); break;
      }
    } else if (size == 1) {
      run_unit<F, kFirst, G, 16>(params, c, unit, weights, tokens, fills);
    } else {
      run_unit<F, kFirst, G, 32>(params, c, unit, weights, tokens, fills);
    }
  }
}

template <Format F, bool kFirst, int G>
__global__ void __launch_bounds__(BlockShape<G>::kThreads, 1)
    prefill_kernel(const __grid_constant__ PrefillParams params) {
  using Smem = PrefillSmem<F, G>;
  using B = BlockShape<G>;
  extern __shared__ __align__(1024) std::byte shared[];
  const MoeParams& p = params.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::uint32_t bars = shared_address(shared + Smem::kBars);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTokenDepth; ++i) {
      mbarrier_init(bars + 8 * i, 1);
      mbarrier_init(bars + 8 * (kTokenDepth + i), B::kWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  PrefillContext c{};
  c.tiles = p.route.tiles;
  c.weights[0] = kFirst ? &p.gate : &p.down;
  c.weights[1] = kFirst ? &p.up : &p.down;
  c.tokens = reinterpret_cast<const std::byte*>(kFirst ? params.x : params.h);
  c.num_blocks = c.weights[0]->num_blocks;
  const int tiles_per_unit = kFirst ? B::kUnitTiles / 2 : B::kUnitTiles;
  c.row_units = (c.weights[0]->num_tiles + tiles_per_unit - 1) / tiles_per_unit;
  c.num_units = *p.route.num_tiles * c.row_units;

  const BlockCursor start{static_cast<int>(blockIdx.x), 0};
  WeightRing<F, kFirst, G> weights{
      .c = c,
      .data = shared + Smem::kWeights + warp * B::kWeightDepth * WeightStage<F>::kBytes,
      .warp = warp,
      .lane = lane,
      .fetch = start};
  TokenRing<G> tokens{.c = c, .data = shared_address(shared), .bars = bars, .fetch = start};
  const bool fills = threadIdx.x == 0;
  for (int i = 0; i < B::kWeightDepth - 1; ++i) weights.fetch_next();
  for (int i = 0; i < kTokenDepth - 2 && fills; ++i) tokens.fetch_next();
  run_units<F, kFirst, G>(params, c, weights, tokens, fills);
}

template <Format F, bool kFirst, int G>
void launch_shape(const PrefillParams& params, int num_sms, cudaStream_t stream) {
  auto* kernel = prefill_kernel<F, kFirst, G>;
  constexpr int kBytes = PrefillSmem<F, G>::kBytes;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  kernel<<<static_cast<unsigned>(num_sms), BlockShape<G>::kThreads, kBytes, stream>>>(params);
}

}  // namespace nibble::kernels::cuda::moe
