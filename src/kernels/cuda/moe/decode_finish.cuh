// The finishing warps of a decode block: they add the compute warps' sums in a fixed order, apply SiLU or the
// routing weight, and write.
#pragma once

#include "kernels/cuda/moe/decode_compute.cuh"

namespace nibble::kernels::cuda::moe {

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

__device__ __forceinline__ float weight_of_slot(const MoeParams& p, int slot) {
  const int shared = p.shared.count;
  if (shared == 0) return p.weights[slot];
  const int i = slot % slots_of_token(p);
  return i < shared ? 1.0F : p.weights[slot / slots_of_token(p) * p.topk + i - shared];
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
      weights[i] = weight_of_slot(p, slots[i]);
    }
  }
};

template <bool kFirstProduct>
__device__ __forceinline__ void write_unit(const MoeParams& p, const Columns& columns, int pair, int lane,
                                           const float (&values)[2][4], const float (&factors)[2][2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (columns.first + i >= columns.tile.count) continue;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float v0 = values[0][2 * r + i] * factors[0][r];
      const float v1 = values[1][2 * r + i] * factors[1][r];
      const int row = row_tile<kFirstProduct>(pair, 0) * kTileRows + lane / 4 + 8 * r;
      if (kFirstProduct) {
        write_hidden(p, columns.tile.begin + columns.first + i, row, silu(v0) * v1);
      } else {
        float* out = p.partial + std::int64_t{columns.slots[i]} * p.down.n;
        if (row < p.down.n) out[row] = columns.weights[i] * v0;
        if (row + kTileRows < p.down.n) out[row + kTileRows] = columns.weights[i] * v1;
      }
    }
  }
}

// One product of a block, by two warps in turn: `which` is the sum buffer of this one. pass: units so far, of
// both products. (One warp alone takes longer for a unit of down than its weights.)
template <bool kFirstProduct>
__device__ __forceinline__ void finish(const MoeParams& p, const DecodeContext& c, const SumBuffers& sums,
                                       int which, int lane, int& pass) {
  Columns columns{.tile = {}, .first = lane % 4 * 2, .slots = {}, .weights = {}};
  int loaded = -1;
  for (Cursor at = c.units.start(); at.unit < c.units.end; c.units.advance(at), ++pass) {
    if ((pass & 1) != which) continue;
    if (at.tile != loaded) columns.load(p, c, at.tile);
    loaded = at.tile;
    float factors[2][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      load_factors<kFirstProduct>(p, columns.tile.expert, half, row_tile<kFirstProduct>(at.pair, half), lane,
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
    write_unit<kFirstProduct>(p, columns, at.pair, lane, values, factors);
    if (kFirstProduct && at.pair == c.units.pairs - 1) clear_hidden_tail(p, columns.tile, lane);
  }
}

}  // namespace nibble::kernels::cuda::moe
