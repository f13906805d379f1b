// Grouped products for few tokens per expert: an expert's rows times up to 8 of its tokens.
//
// The weights are the M side of mma.m16n8k16 and the tokens its N side. A block owns a contiguous range of
// units (tile of tokens, pair of row tiles): gate and up rows of one index in the first product, two
// neighbouring row tiles of down in the second. One warp streams the units' weights through a ring with the
// copy engine, running ahead across units; compute warps take the k64 blocks of a stage in turn; one more
// warp adds their sums in a fixed order, applies SiLU or the routing weight, and writes. A value depends on
// its own token and expert alone.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/moe/decode_formats.h"
#include "kernels/cuda/moe/route.cuh"
#include "kernels/cuda/moe/stage_tokens.cuh"

namespace nibble::kernels::cuda::moe {

// Ring stages. More would fit where tokens are few, and slow memory down (docs/kernels/moe_w4a16.md).
inline constexpr int kMaxDepth = 5;
inline constexpr int kTokenPadBytes = 16;    // keeps the rows of a fragment apart in the banks
inline constexpr int kSharedLimit = 232448;  // of a block on sm_90

// Compute warps, and k64 blocks of both row tiles in a ring stage: codes, then narrow scales.
template <Format F>
struct Stage {
  static constexpr int kBlocks = format_bits(F) <= 8 ? 16 : 8;
  static constexpr int kWarps = F == Format::mxfp4 ? 16 : 8;
  static constexpr int kBlocksPerWarp = kBlocks / kWarps;
  static constexpr int kHalfCodes = kBlocks * block_bytes(F);
  static constexpr int kHalfScales = kBlocks * scale_block_bytes(F);
  static constexpr int kBytes = 2 * (kHalfCodes + kHalfScales);
};

// Offsets into shared memory.
struct DecodeSmem {
  int depth;          // ring stages
  int tile_tokens;    // at most kDecodeTileTokens
  int token_row;      // bytes of one token's share of a warp
  int second_tokens;  // from the tokens as gate wants them to those as up does; 0 = the same
  int warp_tokens;    // bytes of all of a warp's tokens
  int bars;
  int sums;
  int tokens;
  int ring;
  int bytes;
};

template <Format F>
DecodeSmem decode_smem(int num_blocks, int tile_tokens, bool two_orders, int work_words) {
  using S = Stage<F>;
  DecodeSmem s{};
  const auto round = [](int v, int to) { return (v + to - 1) / to * to; };
  const int stages = (num_blocks + S::kBlocks - 1) / S::kBlocks;
  s.tile_tokens = tile_tokens;
  s.token_row = stages * S::kBlocksPerWarp * kTokenBlockBytes + kTokenPadBytes;
  s.second_tokens = two_orders ? tile_tokens * s.token_row : 0;
  s.warp_tokens = (two_orders ? 2 : 1) * tile_tokens * s.token_row;
  s.bars = round(static_cast<int>(sizeof(BlockRoute)), 16);
  s.sums = round(s.bars + (2 * kMaxDepth + 4) * 8, 128);
  s.tokens = s.sums + 2 * S::kWarps * 2 * kWarp * static_cast<int>(sizeof(float4));
  s.ring = round(s.tokens + S::kWarps * s.warp_tokens, 128);
  s.depth = std::min(kMaxDepth, (kSharedLimit - s.ring) / S::kBytes);
  s.bytes = s.ring + std::max(s.depth * S::kBytes, work_words * 4);
  return s;
}

// Where a warp is in its block's units.
struct Cursor {
  int unit;
  int tile;
  int pair;
  __device__ __forceinline__ void advance(int pairs) {
    ++unit;
    if (++pair == pairs) {
      pair = 0;
      ++tile;
    }
  }
};

// Where a warp is in the ring.
struct RingCursor {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int depth) {
    if (++stage == depth) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Everything that does not change during the kernel.
struct DecodeContext {
  const Tile* tiles;
  const std::int32_t* sorted;
  const PackedWeight* weights[2];  // of the two row tiles of a pair
  int num_blocks;
  int pairs;
  int unit_begin;
  int unit_end;
  __device__ __forceinline__ Cursor start() const {
    return {unit_begin, unit_begin / pairs, unit_begin % pairs};
  }
};

// Row tile of the pair's halves; the second may lie past the end.
template <bool kFirst>
__device__ __forceinline__ int row_tile(int pair, int half) {
  return kFirst ? pair : 2 * pair + half;
}

// B fragments of the four k16 steps of a block.
struct Operand {
  std::uint32_t b0[4];
  std::uint32_t b1[4];
  __device__ __forceinline__ void load(const std::byte* tokens) {
    const uint4 low = *reinterpret_cast<const uint4*>(tokens);
    const uint4 high = *reinterpret_cast<const uint4*>(tokens + 16);
    b0[0] = low.x, b1[0] = low.y, b0[1] = low.z, b1[1] = low.w;
    b0[2] = high.x, b1[2] = high.y, b0[3] = high.z, b1[3] = high.w;
  }
};

// Adds a block's product; codes and narrow scales lie in shared memory.
template <Format F>
__device__ __forceinline__ void multiply_block(const std::byte* block_codes, const std::byte* block_scales,
                                               const Operand& x, int lane, float (&acc)[4]) {
  LaneCodes<F> codes;
  codes.load(block_codes, lane);
  LaneScales<F> scales;
  if constexpr (has_narrow_scales(F)) scales.load(block_scales, lane);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    RowOperands operands{};
    if constexpr (has_narrow_scales(F)) operands = scales.operands(step);
    std::uint32_t a[4];
    decode_step(codes, step, operands, a);
    mma_bf16(acc, a, x.b0[step], x.b1[step]);
  }
}

// Wide scales, read from where they lie, go on the products of 32 columns.
template <Format F>
__device__ __forceinline__ void multiply_wide(const PackedWeight& w, const std::byte* tile_scales, int block,
                                              const std::byte* block_codes, const Operand& x, int lane,
                                              float (&acc)[4]) {
  LaneCodes<F> codes;
  codes.load(block_codes, lane);
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    float products[4] = {};
    float scale[2];
    const RowOperands operands = load_operands<F>(w, tile_scales, block, 2 * pair, lane, scale);
#pragma unroll
    for (int step = 2 * pair; step < 2 * pair + 2; ++step) {
      std::uint32_t a[4];
      decode_step(codes, step, operands, a);
      mma_bf16(products, a, x.b0[step], x.b1[step]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] += scale[i / 2] * products[i];
  }
}

// The ring in shared memory: stages, and two barriers for each.
struct Ring {
  std::byte* data;
  std::uint32_t bars;
  int depth;
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full(int stage) const { return bars + 8 * stage; }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t empty(int stage) const {
    return bars + 8 * (kMaxDepth + stage);
  }
};

// The thread that fills the ring.
template <Format F, bool kFirst>
__device__ void produce(const DecodeContext& c, const Ring& ring) {
  using S = Stage<F>;
  RingCursor to;
  int filled = 0;
  for (Cursor at = c.start(); at.unit < c.unit_end; at.advance(c.pairs)) {
    const int expert = c.tiles[at.tile].expert;
    const int halves = row_tile<kFirst>(at.pair, 1) < c.weights[1]->num_tiles ? 2 : 1;
    const TileAddress from[2] = {tile_address(*c.weights[0], expert, row_tile<kFirst>(at.pair, 0)),
                                 tile_address(*c.weights[1], expert, row_tile<kFirst>(at.pair, 1))};
    for (int block = 0; block < c.num_blocks; block += S::kBlocks) {
      const int count = min(S::kBlocks, c.num_blocks - block);
      if (filled >= ring.depth) mbarrier_wait(ring.empty(to.stage), to.parity ^ 1);
      const std::uint32_t bar = ring.full(to.stage);
      const std::uint32_t out = shared_address(ring.data) + to.stage * S::kBytes;
      mbarrier_expect(bar, halves * count * (block_bytes(F) + scale_block_bytes(F)));
      for (int half = 0; half < halves; ++half) {
        bulk_copy(out + half * S::kHalfCodes, from[half].codes + block * block_bytes(F),
                  count * block_bytes(F), bar, kEvictFirst);
        if constexpr (has_narrow_scales(F)) {
          bulk_copy(out + 2 * S::kHalfCodes + half * S::kHalfScales,
                    from[half].scales + block * scale_block_bytes(F), count * scale_block_bytes(F), bar,
                    kEvictFirst);
        }
      }
      ++filled;
      to.advance(ring.depth);
    }
  }
}

// One compute warp: blocks warp + i * kWarps of every stage.
template <Format F, bool kFirst>
struct ComputeWarp {
  using S = Stage<F>;
  // With act-order gate and up have their columns in different orders.
  static constexpr bool kTwoOrders = kFirst && (F == Format::int4 || F == Format::int8);

  const MoeParams& p;
  const DecodeSmem& s;
  const DecodeContext& c;
  Ring ring;
  int warp;
  int lane;
  std::byte* tokens;
  RingCursor from = {};

  __device__ void stage_tokens(const Tile& tile, bool x_pairs) {
    __syncwarp();
    TokenSlice slice{.block_begin = warp,
                     .block_step = S::kWarps,
                     .blocks = (c.num_blocks - warp + S::kWarps - 1) / S::kWarps,
                     .out = tokens,
                     .token_row = s.token_row,
                     .lane = lane};
    const std::int32_t* permutation = permutation_of(*c.weights[0], tile.expert);
    if (!kFirst) {
      stage_h(p, tile, permutation, slice);
    } else if (x_pairs && permutation == nullptr) {
      stage_x<true>(p, c.sorted, tile, nullptr, slice);
    } else {
      stage_x<false>(p, c.sorted, tile, permutation, slice);
      if (kTwoOrders && s.second_tokens != 0) {
        slice.out += s.second_tokens;
        stage_x<false>(p, c.sorted, tile, permutation_of(*c.weights[1], tile.expert), slice);
      }
    }
    __syncwarp();
  }

  // Block b of the stage, block `block` of the row tile; its tokens at `mine`.
  __device__ __forceinline__ void multiply(const std::byte* stage, int b, int block,
                                           const std::byte* const (&scales)[2], const std::byte* mine,
                                           float (&acc)[2][4]) {
    Operand x;
    x.load(mine);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (kTwoOrders && half == 1 && s.second_tokens != 0) x.load(mine + s.second_tokens);
      const std::byte* codes = stage + half * S::kHalfCodes + b * block_bytes(F);
      if constexpr (has_wide_scales(F)) {
        multiply_wide<F>(*c.weights[half], scales[half], block, codes, x, lane, acc[half]);
      } else {
        multiply_block<F>(codes, stage + 2 * S::kHalfCodes + half * S::kHalfScales + b * scale_block_bytes(F),
                          x, lane, acc[half]);
      }
    }
  }

  // This warp's share of a unit.
  __device__ __forceinline__ void multiply_unit(const Cursor& at, const std::byte* mine, float (&acc)[2][4]) {
    const std::byte* scales[2] = {nullptr, nullptr};
    if constexpr (has_wide_scales(F)) {
      for (int half = 0; half < 2; ++half) {
        // Past the end any scales do: nobody reads the products.
        const int tile = min(row_tile<kFirst>(at.pair, half), c.weights[half]->num_tiles - 1);
        scales[half] = tile_address(*c.weights[half], c.tiles[at.tile].expert, tile).scales;
      }
    }
    for (int block = warp; block - warp < c.num_blocks; block += S::kBlocks) {
      mbarrier_wait(ring.full(from.stage), from.parity);
      const std::byte* data = ring.data + from.stage * S::kBytes;
      if (block + (S::kBlocksPerWarp - 1) * S::kWarps < c.num_blocks) {
#pragma unroll
        for (int i = 0; i < S::kBlocksPerWarp; ++i) {
          multiply(data, warp + i * S::kWarps, block + i * S::kWarps, scales, mine + i * kTokenBlockBytes,
                   acc);
        }
      } else {
        for (int i = 0; block + i * S::kWarps < c.num_blocks; ++i) {
          multiply(data, warp + i * S::kWarps, block + i * S::kWarps, scales, mine + i * kTokenBlockBytes,
                   acc);
        }
      }
      mine += S::kBlocksPerWarp * kTokenBlockBytes;
      __syncwarp();
      if (lane == 0) mbarrier_arrive(ring.empty(from.stage));
      from.advance(ring.depth);
    }
  }
};

// Partial sums go from the compute warps to the finishing one through two buffers.
struct SumBuffers {
  float4* data;        // [2][warps][half][lane]
  std::uint32_t bars;  // two "full", two "empty"
  int warps;
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full(int pass) const {
    return bars + 8 * (pass & 1);
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t empty(int pass) const {
    return bars + 16 + 8 * (pass & 1);
  }
  [[nodiscard]] __device__ __forceinline__ float4* of(int pass, int warp, int half, int lane) const {
    return data + (((pass & 1) * warps + warp) * 2 + half) * kWarp + lane;
  }
};

template <Format F, bool kFirst>
__device__ void compute(ComputeWarp<F, kFirst>& w, const SumBuffers& sums, bool x_pairs) {
  int staged = -1;
  int row = 0;
  int pass = 0;
  for (Cursor at = w.c.start(); at.unit < w.c.unit_end; at.advance(w.c.pairs), ++pass) {
    if (at.tile != staged) {
      staged = at.tile;
      const Tile tile = w.c.tiles[at.tile];
      w.stage_tokens(tile, x_pairs);
      // Columns past the tile's tokens repeat the first: nobody reads them.
      row = w.lane / 4 < tile.count ? w.lane / 4 : 0;
    }
    float acc[2][4] = {};
    w.multiply_unit(at, w.tokens + row * w.s.token_row + w.lane % 4 * 32, acc);
    if (pass >= 2) mbarrier_wait(sums.empty(pass), (pass / 2 - 1) & 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *sums.of(pass, w.warp, half, w.lane) =
          make_float4(acc[half][0], acc[half][1], acc[half][2], acc[half][3]);
    }
    __syncwarp();
    if (w.lane == 0) mbarrier_arrive(sums.full(pass));
  }
}

__device__ __forceinline__ void add(float4& sum, const float4& v) {
  sum.x += v.x;
  sum.y += v.y;
  sum.z += v.z;
  sum.w += v.w;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0F + expf(-x)); }

__device__ __forceinline__ void write_hidden(const MoeParams& p, int position, int feature, float value) {
  if (p.h_f32 != nullptr) {
    p.h_f32[position * p.h_row + feature] = value;
  } else {
    p.h[position * p.h_row + fragment_position(feature)] = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
}

// Features past the last row tile: weights are zero there, which does not make up for NaN.
__device__ inline void clear_hidden_tail(const MoeParams& p, const Tile& tile, int lane) {
  const int first = p.gate.num_tiles * kTileRows;
  const int tail = static_cast<int>(p.h_row) - first;
  for (int i = lane; i < tail * tile.count; i += kWarp) {
    write_hidden(p, tile.begin + i / tail, first + i % tail, 0.0F);
  }
}

// The factors of rows g and g + 8 of a row tile; 1 past the last tile.
__device__ __forceinline__ void load_factors(const PackedWeight& w, int expert, int tile, int lane,
                                             float (&factors)[2]) {
  factors[0] = 1.0F;
  factors[1] = 1.0F;
  if (tile >= w.num_tiles) return;
  const std::byte* scales = tile_address(w, expert, tile).scales;
  factors[0] = row_factor(w, scales, lane / 4);
  factors[1] = row_factor(w, scales, lane / 4 + 8);
}

// What the finishing lane knows of a tile: its two columns' slots and routing weights.
struct Columns {
  Tile tile;
  int first;
  int slots[2];
  float weights[2];
  __device__ void load(const MoeParams& p, const DecodeContext& c, int index) {
    tile = c.tiles[index];
    for (int i = 0; i < 2; ++i) {
      if (first + i >= tile.count) continue;
      slots[i] = c.sorted[tile.begin + first + i];
      weights[i] = p.weights[slots[i]];
    }
  }
};

template <bool kFirst>
__device__ __forceinline__ void write_unit(const MoeParams& p, const Columns& columns, int pair, int lane,
                                           const float (&values)[2][4], const float (&factors)[2][2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (columns.first + i >= columns.tile.count) continue;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float v0 = values[0][2 * r + i] * factors[0][r];
      const float v1 = values[1][2 * r + i] * factors[1][r];
      const int row = row_tile<kFirst>(pair, 0) * kTileRows + lane / 4 + 8 * r;
      if (kFirst) {
        write_hidden(p, columns.tile.begin + columns.first + i, row, silu(v0) * v1);
      } else {
        float* out = p.partial + std::int64_t{columns.slots[i]} * p.down.n;
        if (row < p.down.n) out[row] = columns.weights[i] * v0;
        if (row + kTileRows < p.down.n) out[row + kTileRows] = columns.weights[i] * v1;
      }
    }
  }
}

// The warp that finishes units.
template <bool kFirst>
__device__ void finish(const MoeParams& p, const DecodeContext& c, const SumBuffers& sums, int lane) {
  Columns columns{.tile = {}, .first = lane % 4 * 2, .slots = {}, .weights = {}};
  int loaded = -1;
  int pass = 0;
  for (Cursor at = c.start(); at.unit < c.unit_end; at.advance(c.pairs), ++pass) {
    if (at.tile != loaded) columns.load(p, c, at.tile);
    loaded = at.tile;
    float factors[2][2];
    for (int half = 0; half < 2; ++half) {
      load_factors(*c.weights[half], columns.tile.expert, row_tile<kFirst>(at.pair, half), lane,
                   factors[half]);
    }
    mbarrier_wait(sums.full(pass), pass / 2 & 1);
    float4 total[2] = {*sums.of(pass, 0, 0, lane), *sums.of(pass, 0, 1, lane)};
#pragma unroll 4
    for (int w = 1; w < sums.warps; ++w) {
      add(total[0], *sums.of(pass, w, 0, lane));
      add(total[1], *sums.of(pass, w, 1, lane));
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(sums.empty(pass));
    // Row g + 8 r, column i is component 2 r + i.
    const float values[2][4] = {{total[0].x, total[0].y, total[0].z, total[0].w},
                                {total[1].x, total[1].y, total[1].z, total[1].w}};
    write_unit<kFirst>(p, columns, at.pair, lane, values, factors);
    if (kFirst && at.pair == c.pairs - 1) clear_hidden_tail(p, columns.tile, lane);
  }
}

__device__ inline void init_barriers(std::uint32_t bars, int warps) {
  for (int i = 0; i < kMaxDepth; ++i) {
    mbarrier_init(bars + 8 * i, 1);
    mbarrier_init(bars + 8 * (kMaxDepth + i), warps);
  }
  const std::uint32_t sum_bars = bars + 2 * kMaxDepth * 8;
  for (int i = 0; i < 2; ++i) {
    mbarrier_init(sum_bars + 8 * i, warps);
    mbarrier_init(sum_bars + 16 + 8 * i, 1);
  }
  mbarrier_init_fence();
}

// The tiles, sorted here or before, and this block's share of the units.
template <bool kFirst>
__device__ DecodeContext make_context(const MoeParams& p, const DecodeSmem& s, std::byte* shared) {
  DecodeContext c{};
  int num_tiles = 0;
  if (p.route.tiles == nullptr) {
    auto& route = *reinterpret_cast<BlockRoute*>(shared);
    sort_in_block(route, reinterpret_cast<std::int32_t*>(shared + s.ring), p.ids, p.m * p.topk, p.num_experts,
                  s.tile_tokens);
    c.tiles = route.tiles;
    c.sorted = route.sorted;
    num_tiles = route.num_tiles;
  } else {
    c.tiles = p.route.tiles;
    c.sorted = p.route.sorted;
    num_tiles = *p.route.num_tiles;
  }
  c.weights[0] = kFirst ? &p.gate : &p.down;
  c.weights[1] = kFirst ? &p.up : &p.down;
  c.num_blocks = c.weights[0]->num_blocks;
  c.pairs = kFirst ? p.gate.num_tiles : (p.down.num_tiles + 1) / 2;
  const std::int64_t units = std::int64_t{num_tiles} * c.pairs;
  c.unit_begin = static_cast<int>(units * blockIdx.x / gridDim.x);
  c.unit_end = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x);
  return c;
}

// The compute warps, the finishing and the filling one.
template <Format F>
inline constexpr int kDecodeThreads = (Stage<F>::kWarps + 2) * kWarp;

template <Format F, bool kFirst>
__global__ void __launch_bounds__(kDecodeThreads<F>, 1)
    decode_kernel(const __grid_constant__ MoeParams p, const __grid_constant__ DecodeSmem s, bool x_pairs) {
  constexpr int kWarps = Stage<F>::kWarps;
  extern __shared__ __align__(128) std::byte shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::uint32_t bars = shared_address(shared + s.bars);
  if (threadIdx.x == 0) init_barriers(bars, kWarps);
  if (kFirst) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
  }
  const DecodeContext c = make_context<kFirst>(p, s, shared);
  fence_async_proxy();  // sorting used the ring's memory
  __syncthreads();
  const Ring ring{shared + s.ring, bars, s.depth};
  const SumBuffers sums{reinterpret_cast<float4*>(shared + s.sums), bars + 2 * kMaxDepth * 8, kWarps};

  // The second product needs only h of the first: its weights start to flow before that is there.
  if (warp == kWarps + 1) {
    if (lane == 0) produce<F, kFirst>(c, ring);
    return;
  }
  if (!kFirst) wait_for_earlier_kernels();
  if (warp == kWarps) {
    if (!kFirst) let_next_kernel_start();
    finish<kFirst>(p, c, sums, lane);
    return;
  }
  ComputeWarp<F, kFirst> w{.p = p,
                           .s = s,
                           .c = c,
                           .ring = ring,
                           .warp = warp,
                           .lane = lane,
                           .tokens = shared + s.tokens + warp * s.warp_tokens};
  compute<F, kFirst>(w, sums, x_pairs);
}

// Tokens a tile can have and yet leave room for a ring.
template <Format F, bool kFirst>
DecodeSmem plan_smem(const MoeParams& p, int tile_tokens) {
  constexpr int kWantedDepth = 2;
  const PackedWeight& w = kFirst ? p.gate : p.down;
  const bool two_orders = kFirst && w.permutation_offset != 0;
  const int work = p.route.tiles == nullptr ? sort_work_words(p.m * p.topk, p.num_experts) : 0;
  DecodeSmem smem = decode_smem<F>(w.num_blocks, tile_tokens, two_orders, work);
  while ((smem.depth < kWantedDepth || smem.bytes > kSharedLimit) && tile_tokens > 1) {
    smem = decode_smem<F>(w.num_blocks, --tile_tokens, two_orders, work);
  }
  return smem;
}

template <Format F, bool kFirst>
void launch_decode_product(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream) {
  const DecodeSmem smem = plan_smem<F, kFirst>(p, options.tile_tokens);
  const bool x_pairs =
      reinterpret_cast<std::uintptr_t>(p.x) % 8 == 0 && p.x_stride % 2 == 0 && p.gate.k % 2 == 0;
  auto* kernel = decode_kernel<F, kFirst>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem.bytes);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(options.num_sms));
  config.blockDim = dim3(kDecodeThreads<F>);
  config.dynamicSmemBytes = static_cast<std::size_t>(smem.bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = options.overlap ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, p, smem, x_pairs);
}

template <Format F>
constexpr DecodeProducts decode_products() {
  return {.first_tile_tokens = [](const MoeParams& p,
                                  int wanted) { return plan_smem<F, true>(p, wanted).tile_tokens; },
          .second_tile_tokens = [](const MoeParams& p,
                                   int wanted) { return plan_smem<F, false>(p, wanted).tile_tokens; },
          .first = launch_decode_product<F, true>,
          .second = launch_decode_product<F, false>};
}

}  // namespace nibble::kernels::cuda::moe
