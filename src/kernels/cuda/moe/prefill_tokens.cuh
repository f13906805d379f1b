// Where tokens of the prefill products lie (prefill.h), and their quantisation to E4M3.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/moe/prefill.h"

namespace nibble::kernels::cuda::moe {

inline constexpr int kWarp = 32;
inline constexpr int kPanelBytes = 128;  // of a token
inline constexpr int kPieceBytes = 16;
inline constexpr int kAtomBytes = 1024;
inline constexpr int kAtomTokens = 8;

enum class Input : std::uint8_t { bf16, fp8 };

__device__ __forceinline__ int padded_tokens(const Tile& tile) {
  return (tile.count + kAtomTokens - 1) / kAtomTokens * kAtomTokens;
}

template <Input I>
__device__ __forceinline__ int num_panels(const PackedWeight& w) {
  return I == Input::bf16 ? w.num_blocks : (w.num_blocks + 1) / 2;
}

// Byte offset of a piece (of 8) of a token of the tile.
__device__ __forceinline__ std::int64_t piece_offset(const Tile& tile, int panels, int panel, int token,
                                                     int piece) {
  const int atoms = padded_tokens(tile) / kAtomTokens;
  const int row = token % kAtomTokens;
  return (std::int64_t{tile.begin} / kAtomTokens * panels + std::int64_t{panel} * atoms +
          token / kAtomTokens) *
             kAtomBytes +
         row * kPanelBytes + (piece ^ row) * kPieceBytes;
}

__device__ __forceinline__ std::int64_t scale_offset(const Tile& tile, int panels, int panel, int token) {
  return std::int64_t{tile.begin} * panels + std::int64_t{panel} * padded_tokens(tile) + token;
}

// quant/activations.h: the scale of a group of inputs.
__device__ __forceinline__ float fp8_scale(float largest) {
  constexpr float kFloor = 1e-12F;
  constexpr float kE4m3Max = 448.0F;
  // A comparison that NaN passes through.
  return (largest < kFloor ? kFloor : largest) / kE4m3Max;
}

// Two values as E4M3, nearest even, the first in the low byte. Not finite becomes NaN: `inverse` is 0 or NaN
// then.
__device__ __forceinline__ std::uint32_t fp8_pair(float low, float high, float inverse) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low * inverse, high * inverse), __NV_SATFINITE, __NV_E4M3);
}

}  // namespace nibble::kernels::cuda::moe
