// What a prefill unit's sums become: hidden values as tokens of the second product, or weighted outputs.
#pragma once

#include "kernels/cuda/moe/prefill_ring.cuh"

namespace nibble::kernels::cuda::moe {

// Good to a few units in the last place; the result is rounded to bf16 or E4M3.
__device__ __forceinline__ float silu_of(float x) { return __fdividef(x, 1.0F + __expf(-x)); }

// Factors of rows g and g + 8 of both halves; 0 past the last row tile, which makes hidden padding 0.
__device__ __forceinline__ void prefill_factors(const PrefillContext& c, int expert,
                                                const int (&row_tiles)[2], int lane, float (&factors)[2][2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const PackedWeight& w = *c.weights[half];
    const std::byte* scales = tile_address(w, expert, min(row_tiles[half], w.num_tiles - 1)).scales;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factors[half][r] = row_tiles[half] < w.num_tiles ? row_factor(w, scales, lane / 4 + 8 * r) : 0.0F;
    }
  }
}

// acc[0] = hidden values.
template <int kN>
__device__ __forceinline__ void gate_values(float (&acc)[2][kN / 2], const float (&factors)[2][2]) {
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int r = i / 2 % 2;
    const float value = silu_of(acc[0][i] * factors[0][r]) * (acc[1][i] * factors[1][r]);
    acc[0][i] = factors[0][r] == 0.0F ? 0.0F : value;
  }
}

// The largest magnitudes of kGroupRows hidden values of every token, found by two warpgroups together. As
// bits: those of NaN are the largest.
struct GroupMaxima {
  unsigned* data;  // [kMaxBuffers][pairs of warpgroups][tokens]
  int pairs;
  int pass = 0;

  [[nodiscard]] __device__ __forceinline__ unsigned* buffer(int number, int pair) const {
    return data + (number % kMaxBuffers * pairs + pair) * kPrefillTileTokens;
  }
};

template <int kN>
__device__ __forceinline__ void find_maxima(GroupMaxima& m, int warp, int lane, const float (&h)[kN / 2]) {
  const int pair = warp / (2 * kGroupTiles);
  unsigned* maxima = m.buffer(m.pass, pair);
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unsigned top =
          max(__float_as_uint(h[4 * j + i]) & 0x7FFFFFFFU, __float_as_uint(h[4 * j + 2 + i]) & 0x7FFFFFFFU);
#pragma unroll
      for (int d = 4; d < kWarp; d *= 2) top = max(top, __shfl_xor_sync(0xFFFFFFFFU, top, d));
      if (lane < 4) atomicMax(maxima + 8 * j + 2 * lane + i, top);
    }
  }
  constexpr int kPairThreads = 2 * kGroupTiles * kWarp;
  if (pair == 0) {
    barrier_sync<1, kPairThreads>();
  } else {
    barrier_sync<2, kPairThreads>();
  }
  // The next pass but one's: everybody has read it two passes ago, and nobody adds to it before the next
  // barrier.
  const int thread = warp % (2 * kGroupTiles) * kWarp + lane;
  if (thread < kPrefillTileTokens) m.buffer(m.pass + 2, pair)[thread] = 0;
}

// Hidden values, E4M3 with scales. Lanes of neighbouring rows swap tokens so that each stores four columns.
template <int kN>
__device__ __forceinline__ void write_hidden_fp8(const PrefillParams& params, const Tile& tile, int row_tile,
                                                 int warp, int lane, const unsigned* maxima,
                                                 const float (&h)[kN / 2]) {
  const int panels = num_panels<Input::fp8>(params.p.down);
  const int panel = row_tile / 8;
  if (panel >= panels) return;
  const bool odd = lane / 4 % 2 != 0;
  const int first_token = lane % 4 * 2 + static_cast<int>(odd);
  std::byte* out = params.h + lane / 8 * 4 + piece_offset(tile, panels, panel, first_token, row_tile % 8);
  float* scales = params.h_scales + scale_offset(tile, panels, panel, first_token);
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const uint2 tops = *reinterpret_cast<const uint2*>(maxima + 8 * j + lane % 4 * 2);
    const float scale[2] = {fp8_scale(__uint_as_float(tops.x)), fp8_scale(__uint_as_float(tops.y))};
    std::uint32_t codes[2];  // of rows g and g + 8, by token
#pragma unroll
    for (int i = 0; i < 2; ++i) codes[i] = fp8_pair(h[4 * j + i], h[4 * j + 2 + i], 1.0F / scale[i]);
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFU, odd ? codes[0] : codes[1], 4);
    const std::uint32_t word =
        odd ? __byte_perm(other, codes[1], 0x5140) : __byte_perm(codes[0], other, 0x5140);
    if (8 * j + first_token >= tile.count) continue;
    *reinterpret_cast<std::uint32_t*>(out + j * kAtomBytes) = word;
    if (row_tile % 8 == 0 && lane / 8 == 0) scales[8 * j] = odd ? scale[1] : scale[0];
  }
}

// The same as bf16; `maxima`: rounded to what E4M3 holds before, or null.
template <int kN>
__device__ __forceinline__ void write_hidden_bf16(const PrefillParams& params, const Tile& tile, int row_tile,
                                                  int lane, const unsigned* maxima, float (&h)[kN / 2]) {
  const int panels = num_panels<Input::bf16>(params.p.down);
  const int panel = row_tile / kGroupTiles;
  if (panel >= panels) return;
  if (maxima != nullptr) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const float scale = fp8_scale(__uint_as_float(maxima[i / 4 * 8 + lane % 4 * 2 + i % 2]));
      const auto code = static_cast<__nv_fp8_storage_t>(fp8_pair(h[i], 0.0F, 1.0F / scale));
      h[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))) * scale;
    }
  }
  const bool odd = lane / 4 % 2 != 0;
  const int first_token = lane % 4 * 2 + static_cast<int>(odd);
  std::byte* out[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    out[r] = params.h + lane / 8 * 4 +
             piece_offset(tile, panels, panel, first_token, row_tile % kGroupTiles * 2 + r);
  }
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float values[2] = {h[4 * j + 2 * r], h[4 * j + 2 * r + 1]};
      const float other = __shfl_xor_sync(0xFFFFFFFFU, odd ? values[0] : values[1], 4);
      const std::uint32_t pair = odd ? round_pair(other, values[1]) : round_pair(values[0], other);
      if (8 * j + first_token < tile.count) *reinterpret_cast<std::uint32_t*>(out[r] + j * kAtomBytes) = pair;
    }
  }
}

template <Input I, int kN>
__device__ __forceinline__ void write_hidden(const PrefillParams& params, const Tile& tile, int row_tile,
                                             int warp, int lane, GroupMaxima& maxima, float (&h)[kN / 2]) {
  const bool quantizes = I == Input::fp8 || params.p.hidden == Hidden::fp8;
  if (quantizes) find_maxima<kN>(maxima, warp, lane, h);
  const unsigned* found = quantizes ? maxima.buffer(maxima.pass, warp / (2 * kGroupTiles)) : nullptr;
  if constexpr (I == Input::fp8) {
    write_hidden_fp8<kN>(params, tile, row_tile, warp, lane, found, h);
  } else {
    write_hidden_bf16<kN>(params, tile, row_tile, lane, found, h);
  }
  ++maxima.pass;
}

template <int kN>
__device__ __forceinline__ void write_partial(const PrefillParams& params, const Tile& tile, int row_tile,
                                              int lane, const float (&acc)[2][kN / 2],
                                              const float (&factors)[2][2]) {
  const MoeParams& p = params.p;
  // Slot and weight of tokens lane, lane + 32, ...
  constexpr int kLoads = (kN + kWarp - 1) / kWarp;
  int slots[kLoads];
  float weights[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int token = i * kWarp + lane;
    slots[i] = token < tile.count ? p.route.sorted[tile.begin + token] : -1;
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) weights[i] = slots[i] >= 0 ? p.weights[slots[i]] : 0.0F;
  const int row = row_tile * kTileRows + lane / 4;
  constexpr int kHalfRows = kGroupTiles * kTileRows;
  float* out = p.partial + row;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int from = j % 4 * 8 + lane % 4 * 2 + i;
      const int slot = __shfl_sync(0xFFFFFFFFU, slots[j / 4], from);
      const float weight = __shfl_sync(0xFFFFFFFFU, weights[j / 4], from);
      if (slot < 0) continue;
      float* of_slot = out + std::int64_t{slot} * p.down.n;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int offset = half * kHalfRows + 8 * r;
          if (row + offset >= p.down.n) continue;
          __stcs(of_slot + offset, weight * (acc[half][4 * j + 2 * r + i] * factors[half][r]));
        }
      }
    }
  }
}

}  // namespace nibble::kernels::cuda::moe
