// What a prefill unit's sums become: hidden values as tokens of the second product, or weighted outputs.
#pragma once

#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/moe/prefill_ring.cuh"

namespace nibble::kernels::cuda::moe {

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

// acc[0] = hidden values. Good to a few units in the last place; the results are rounded to bf16 or E4M3.
template <int kN>
__device__ __forceinline__ void gate_values(float (&acc)[2][kN / 2], const float (&factors)[2][2]) {
  constexpr float kLog2E = 1.44269504F;
  const float exponents[2] = {-kLog2E * factors[0][0], -kLog2E * factors[0][1]};
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int r = i / 2 % 2;
    float power;
    float sigmoid;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(acc[0][i] * exponents[r]));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigmoid) : "f"(1.0F + power));
    acc[0][i] = acc[0][i] * factors[0][r] * sigmoid * (acc[1][i] * factors[1][r]);
  }
}

// Of 128 hidden values, which two warpgroups make together: every warp's largest magnitude of each
// token, and what becomes of them, the scale and its inverse.
struct GroupScales {
  unsigned*
      maxima;  // [pairs of warpgroups][kGroupWarps][kPrefillTileTokens], bits: those of NaN are the largest
  float2* scales;  // [pairs of warpgroups][kPrefillTileTokens]
  // Where bf16 results are turned, PieceWriter::kBytes a warp. Over maxima, of which a warp's lie in the same
  // place: it writes them after its last results, and they are read before any next ones.
  std::byte* stage;
};
inline constexpr int kGroupWarps = 2 * kGroupTiles;

__device__ __forceinline__ void pair_barrier(int pair) {
  if (pair == 0) {
    barrier_sync<1, kGroupWarps * kWarp>();
  } else {
    barrier_sync<2, kGroupWarps * kWarp>();
  }
}

// The largest of eight lanes' (4 apart) values, for eight values: lane g of the eight gets value
// (g & 1) * 4 + (g & 2) + (g >> 2).
__device__ __forceinline__ unsigned max_of_rows(const unsigned (&values)[8], int lane) {
  unsigned four[4];
  unsigned two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool upper = (lane & 4) != 0;
    const unsigned other = __shfl_xor_sync(0xFFFFFFFFU, upper ? values[i] : values[i + 4], 4);
    four[i] = max(upper ? values[i + 4] : values[i], other);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool upper = (lane & 8) != 0;
    const unsigned other = __shfl_xor_sync(0xFFFFFFFFU, upper ? four[i] : four[i + 2], 8);
    two[i] = max(upper ? four[i + 2] : four[i], other);
  }
  const bool upper = (lane & 16) != 0;
  const unsigned other = __shfl_xor_sync(0xFFFFFFFFU, upper ? two[0] : two[1], 16);
  return max(upper ? two[1] : two[0], other);
}

// The scales of this warp's group: [token]{scale, inverse}.
template <int kN>
__device__ __forceinline__ const float2* find_scales(const GroupScales& g, int warp, int lane,
                                                     const float (&h)[kN / 2]) {
  const int pair = warp / kGroupWarps;
  unsigned* maxima = g.maxima + pair * kGroupWarps * kPrefillTileTokens;
  const int own = (lane >> 2 & 1) * 4 + (lane >> 2 & 2) + (lane >> 4);  // of max_of_rows
#pragma unroll
  for (int first = 0; first < kN / 8; first += 4) {
    unsigned tops[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int at = 4 * (first + i / 2) + i % 2;
      tops[i] = first + i / 2 < kN / 8 ? max(__float_as_uint(h[at % (kN / 2)]) & 0x7FFFFFFFU,
                                             __float_as_uint(h[(at + 2) % (kN / 2)]) & 0x7FFFFFFFU)
                                       : 0;
    }
    const unsigned top = max_of_rows(tops, lane);
    const int token = 8 * (first + own / 2) + lane % 4 * 2 + own % 2;
    if (token < kN) maxima[warp % kGroupWarps * kPrefillTileTokens + token] = top;
  }
  pair_barrier(pair);
  const int token = warp % kGroupWarps * kWarp + lane;
  if (token < kN) {
    unsigned top = 0;
#pragma unroll
    for (int i = 0; i < kGroupWarps; ++i) top = max(top, maxima[i * kPrefillTileTokens + token]);
    const float scale = fp8_scale(__uint_as_float(top));
    g.scales[pair * kPrefillTileTokens + token] = make_float2(scale, 1.0F / scale);
  }
  pair_barrier(pair);
  return g.scales + pair * kPrefillTileTokens;
}

// Hidden values, E4M3 with scales. Lanes of neighbouring rows swap tokens so that each stores four columns.
template <int kN>
__device__ __forceinline__ void write_hidden_fp8(const PrefillParams& params, const Tile& tile, int row_tile,
                                                 int lane, const float2* scales, const float (&h)[kN / 2]) {
  const int panels = num_panels<Input::fp8>(params.p.down);
  const int panel = row_tile / 8;
  if (panel >= panels) return;
  const bool odd = lane / 4 % 2 != 0;
  const int first_token = lane % 4 * 2 + static_cast<int>(odd);
  std::byte* out = params.h + lane / 8 * 4 + piece_offset(tile, panels, panel, first_token, row_tile % 8);
  float* out_scales = params.h_scales + scale_offset(tile, panels, panel, first_token);
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float4 scale = *reinterpret_cast<const float4*>(scales + 8 * j + lane % 4 * 2);
    // Codes of rows g and g + 8, by token.
    const std::uint32_t codes[2] = {fp8_pair(h[4 * j], h[4 * j + 2], scale.y),
                                    fp8_pair(h[4 * j + 1], h[4 * j + 3], scale.w)};
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFU, odd ? codes[0] : codes[1], 4);
    const std::uint32_t word =
        odd ? __byte_perm(other, codes[1], 0x5140) : __byte_perm(codes[0], other, 0x5140);
    if (8 * j + first_token >= tile.count) continue;
    *reinterpret_cast<std::uint32_t*>(out + j * kAtomBytes) = word;
    if (row_tile % 8 == 0 && lane / 8 == 0) out_scales[8 * j] = odd ? scale.z : scale.x;
  }
}

// Turns 16 rows of 16 tokens, as a warp's sums lie, into pieces: eight rows of a token for each lane.
class PieceWriter {
 public:
  static constexpr int kBytes = kWarp * kPieceBytes;  // of the warp's shared memory

  __device__ __forceinline__ PieceWriter(std::byte* stage, int lane)
      : piece_(reinterpret_cast<uint4*>(stage) + lane), address_(shared_address(piece_)) {}
  static __device__ __forceinline__ int token(int lane) { return lane / 16 * 8 + lane % 8; }
  static __device__ __forceinline__ int piece(int lane) { return lane / 8 % 2; }
  // pairs: two tokens of rows g and g + 8, of the first eight tokens and of the others.
  __device__ __forceinline__ uint4 exchange(const std::uint32_t (&pairs)[4]) const {
    __syncwarp();
    store_transposed_8x8(address_, pairs);
    __syncwarp();
    return *piece_;
  }

 private:
  const uint4* piece_;
  std::uint32_t address_;
};

// The same as bf16, rounded before to what E4M3 holds if there are scales.
template <int kN>
__device__ __forceinline__ void write_hidden_bf16(const PrefillParams& params, const Tile& tile, int row_tile,
                                                  int lane, const float2* scales, std::byte* stage,
                                                  float (&h)[kN / 2]) {
  const int panels = num_panels<Input::bf16>(params.p.down);
  const int panel = row_tile / kGroupTiles;
  if (panel >= panels) return;
  if (scales != nullptr) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const float2 scale = scales[i / 4 * 8 + lane % 4 * 2 + i % 2];
      const auto code = static_cast<__nv_fp8_storage_t>(fp8_pair(h[i], 0.0F, scale.y));
      h[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))) * scale.x;
    }
  }
  const PieceWriter writer(stage, lane);
  const int token = writer.token(lane);
  std::byte* out = params.h + piece_offset(tile, panels, panel, token,
                                           row_tile % kGroupTiles * 2 + PieceWriter::piece(lane));
#pragma unroll
  for (int i = 0; i < kN / 16; ++i) {
    std::uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) pairs[j] = round_pair(h[8 * i + 2 * j], h[8 * i + 2 * j + 1]);
    const uint4 piece = writer.exchange(pairs);
    if (16 * i + token < tile.count) *reinterpret_cast<uint4*>(out + i * 2 * kAtomBytes) = piece;
  }
}

template <Input I, int kN>
__device__ __forceinline__ void write_hidden(const PrefillParams& params, const Tile& tile, int row_tile,
                                             int warp, int lane, const GroupScales& groups,
                                             float (&h)[kN / 2]) {
  if constexpr (I == Input::fp8) {
    write_hidden_fp8<kN>(params, tile, row_tile, lane, find_scales<kN>(groups, warp, lane, h), h);
  } else {
    const float2* scales = params.p.hidden == Hidden::fp8 ? find_scales<kN>(groups, warp, lane, h) : nullptr;
    write_hidden_bf16<kN>(params, tile, row_tile, lane, scales, groups.stage + warp * PieceWriter::kBytes, h);
  }
}

// Slot and routing weight of a tile's tokens: lane l has those of l, l + 32, ...
template <int kN>
struct LaneSlots {
  static constexpr int kLoads = (kN + kWarp - 1) / kWarp;
  int slots[kLoads];  // -1 past the last token
  float weights[kLoads];

  __device__ __forceinline__ void load(const Route& route, const Tile& tile, int lane) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = i * kWarp + lane;
      slots[i] = token < tile.count ? route.sorted[tile.begin + token] : -1;
      weights[i] = token < tile.count ? route.sorted_weights[tile.begin + token] : 0.0F;
    }
  }
};

template <int kN>
__device__ __forceinline__ void write_partial(const MoeParams& p, const LaneSlots<kN>& tokens, int row_tile,
                                              int lane, std::byte* stage, const float (&acc)[2][kN / 2],
                                              const float (&factors)[2][2]) {
  const PieceWriter writer(stage, lane);
  const std::int64_t row = partial_row(p);
  std::uint16_t* out = p.partial_bf16 + row_tile * kTileRows + PieceWriter::piece(lane) * 8;
#pragma unroll
  for (int i = 0; i < kN / 16; ++i) {
    const int first = i % 2 * 16;  // lane of the first token
    float weights[4];              // of the lane's tokens 8j, 8j + 1
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      weights[j] = __shfl_sync(0xFFFFFFFFU, tokens.weights[i / 2], first + j / 2 * 8 + lane % 4 * 2 + j % 2);
    }
    const int slot = __shfl_sync(0xFFFFFFFFU, tokens.slots[i / 2], first + PieceWriter::token(lane));
    std::uint16_t* of_slot = out + slot * row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* sums = acc[half] + 8 * i + 2 * j;
        const float factor = factors[half][j % 2];
        pairs[j] =
            round_pair(weights[j / 2 * 2] * (sums[0] * factor), weights[j / 2 * 2 + 1] * (sums[1] * factor));
      }
      const uint4 piece = writer.exchange(pairs);
      if (slot >= 0 && row_tile + half * kGroupTiles < p.down.num_tiles) {
        __stcs(reinterpret_cast<uint4*>(of_slot + half * kGroupTiles * kTileRows), piece);
      }
    }
  }
}

}  // namespace nibble::kernels::cuda::moe
