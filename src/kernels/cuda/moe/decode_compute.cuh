// The compute warps of a decode block: they take the k64 blocks of a stage in turn and leave their sums of a
// unit for the finishing warps.
#pragma once

#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/moe/decode_fill.cuh"
#include "kernels/cuda/moe/stage_tokens.cuh"

namespace nibble::kernels::cuda::moe {

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

// Partial sums go from the compute warps to the finishing ones through a buffer for each.
struct SumBuffers {
  float4* data;  // [2][warps][half][lane]
  std::uint32_t bars;
  int warps;
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full(int pass) const {
    return bars + 8 * (Bars::kSumsFull + (pass & 1));
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t empty(int pass) const {
    return bars + 8 * (Bars::kSumsEmpty + (pass & 1));
  }
  [[nodiscard]] __device__ __forceinline__ float4* of(int pass, int warp, int half, int lane) const {
    return data + (((pass & 1) * warps + warp) * 2 + half) * kWarp + lane;
  }
};

// One compute warp: blocks warp + i * kWarps of every stage.
template <Format F, bool kFirstProduct>
struct ComputeWarp {
  using S = Stage<F>;
  // With act-order gate and up have their columns in different orders.
  static constexpr bool kTwoOrders = kFirstProduct && (F == Format::int4 || F == Format::int8);

  const MoeParams& p;
  const TokenArea& area;
  const DecodeContext& c;
  const Ring& ring;
  const SumBuffers& sums;
  int warp;
  int lane;
  std::byte* tokens;
  RingCursor& from;
  int& pass;  // units so far, of both products

  __device__ void stage_tokens(const Tile& tile, bool x_pairs) {
    __syncwarp();
    TokenSlice slice{.block_begin = warp,
                     .block_step = S::kWarps,
                     .blocks = (c.num_blocks - warp + S::kWarps - 1) / S::kWarps,
                     .out = tokens,
                     .token_row = area.token_row,
                     .lane = lane};
    // Shared experts go together with weights in plain order only.
    const std::int32_t* permutation = permutation_of(routed_weight<kFirstProduct>(p, 0), tile.expert);
    if (!kFirstProduct) {
      stage_h(p, tile, permutation, slice);
    } else if (x_pairs && permutation == nullptr) {
      stage_x<true>(p, c.sorted, tile, nullptr, slice);
    } else {
      stage_x<false>(p, c.sorted, tile, permutation, slice);
      if (kTwoOrders && area.second_tokens != 0) {
        slice.out += area.second_tokens;
        stage_x<false>(p, c.sorted, tile, permutation_of(routed_weight<kFirstProduct>(p, 1), tile.expert),
                       slice);
      }
    }
    __syncwarp();
  }

  // Block b of the stage, block `block` of the row tile; its tokens at `mine`. scales: wide ones.
  __device__ __forceinline__ void multiply(const std::byte* stage, int b, int block,
                                           const std::byte* const (&scales)[2], const std::byte* mine,
                                           float (&acc)[2][4]) {
    Operand x;
    x.load(mine);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (kTwoOrders && half == 1 && area.second_tokens != 0) x.load(mine + area.second_tokens);
      const std::byte* codes = stage + half * S::kHalfCodes + b * block_bytes(F);
      if constexpr (has_wide_scales(F)) {
        multiply_wide<F>(routed_weight<kFirstProduct>(p, half), scales[half], block, codes, x, lane,
                         acc[half]);
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
        const PackedWeight& w = routed_weight<kFirstProduct>(p, half);
        const int tile = min(row_tile<kFirstProduct>(at.pair, half), w.num_tiles - 1);
        scales[half] = tile_address(w, c.tiles[at.tile].expert, tile).scales;
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

  // All of the block's units.
  __device__ __forceinline__ void run(bool x_pairs) {
    int staged = -1;
    int row = 0;
    for (Cursor at = c.units.start(); at.unit < c.units.end; c.units.advance(at), ++pass) {
      if (at.tile != staged) {
        staged = at.tile;
        const Tile tile = c.tiles[at.tile];
        stage_tokens(tile, x_pairs);
        // Columns past the tile's tokens repeat the first: nobody reads them.
        row = lane / 4 < tile.count ? lane / 4 : 0;
      }
      float acc[2][4] = {};
      multiply_unit(at, tokens + row * area.token_row + lane % 4 * 32, acc);
      if (pass >= 2) mbarrier_wait(sums.empty(pass), (pass / 2 - 1) & 1);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *sums.of(pass, warp, half, lane) =
            make_float4(acc[half][0], acc[half][1], acc[half][2], acc[half][3]);
      }
      __syncwarp();
      if (lane == 0) mbarrier_arrive(sums.full(pass));
    }
  }
};

}  // namespace nibble::kernels::cuda::moe
