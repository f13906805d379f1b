// Decoders of packed blocks (layout.h): a lane's codes to the bf16 A fragments of mma.m16n8k16 and wgmma.
//
// Weights come out exactly; f16 and f32, which bf16 cannot hold, as a rounded part and a rest
// (splits_weights):
//   mxfp4, nvfp4   weight / factor of the row (RowOperands = multipliers from the block's narrow scales)
//   int4, int8     code - zero (RowOperands = what to subtract)
//   fp8            the code's value; wide scales go on the accumulators
// Integer instructions per register of two weights: e2m1 2.8 and a product, int4 2 and a difference, fp8 and
// int8 3.5 and one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda {

// Two operands of a k16 step, each twice in a bf16 pair: for row g and for row g + 8 of the lane.
struct RowOperands {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
};

__device__ __forceinline__ std::uint32_t bits_of(__nv_bfloat162 pair) {
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ __nv_bfloat162 bf16_pair(std::uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}
__device__ __forceinline__ std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
  return bits_of(__hmul2(bf16_pair(a), bf16_pair(b)));
}
__device__ __forceinline__ std::uint32_t subtract_pairs(std::uint32_t a, std::uint32_t b) {
  return bits_of(__hsub2(bf16_pair(a), bf16_pair(b)));
}
// Rounded to nearest even; `even` in the low half.
__device__ __forceinline__ std::uint32_t round_pair(float even, float odd) {
  return bits_of(__floats2bfloat162_rn(even, odd));
}
__device__ __forceinline__ float low_float(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_float(std::uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000U);
}

// Byte `i` of `word` in the low bytes of both halves.
__device__ __forceinline__ std::uint32_t spread_byte(std::uint32_t word, int i) {
  return __byte_perm(word, 0U, static_cast<unsigned>(0x4040 | i | (i << 8)));
}

// A lane's share of a block's codes: vector v lies at [v][lane].
template <Format kFormat>
struct LaneCodes {
  static constexpr int kVectors = block_bytes(kFormat) / 512;
  uint4 vectors[kVectors];

  // `block` points at the block in global or shared memory.
  __device__ __forceinline__ void load(const std::byte* block, int lane) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) vectors[v] = reinterpret_cast<const uint4*>(block)[v * 32 + lane];
  }
  // At least what steps 2 chunk and 2 chunk + 1 need.
  __device__ __forceinline__ void load_chunk(const std::byte* block, int chunk, int lane) {
    constexpr int kCount = kVectors == 1 ? 1 : kVectors / 2;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int v = (chunk * kCount + i) % kVectors;
      vectors[v] = reinterpret_cast<const uint4*>(block)[v * 32 + lane];
    }
  }
};

// Four fragments of e2m1 codes times 2^-126.
__device__ __forceinline__ void decode_e2m1(std::uint32_t word, std::uint32_t (&a)[4]) {
  constexpr std::uint32_t kMask = 0x81C081C0U;
  a[0] = word & kMask;
  a[1] = (word << 3) & kMask;
  a[2] = (word << 6) & kMask;
  a[3] = ((word << 1) & 0x80008000U) | ((word >> 3) & 0x01800180U) | ((word >> 7) & 0x00400040U);
}

// e4m3 in the high or low bytes of both halves, times 2^-120, then made up for.
__device__ __forceinline__ std::uint32_t decode_e4m3(std::uint32_t word, bool in_high_bytes) {
  constexpr std::uint32_t kTwoTo120 = 0x7B807B80U;
  const std::uint32_t at_top = in_high_bytes ? word : word << 8;
  const std::uint32_t magnitude = (in_high_bytes ? word >> 4 : word << 4) & 0x07F007F0U;
  return multiply_pairs((at_top & 0x80008000U) | magnitude, kTwoTo120);
}

// Signed bytes in the high or low bytes of both halves. 0x43xx is 128 + the low seven bits; the sign bit
// turns the 128 that is taken away into 256.
__device__ __forceinline__ std::uint32_t decode_int8(std::uint32_t word, bool in_high_bytes) {
  const std::uint32_t bytes = in_high_bytes ? word >> 8 : word;
  return subtract_pairs((bytes & 0x007F007FU) | 0x43004300U, (bytes & 0x00800080U) | 0x43004300U);
}

// Formats whose weights take two bf16 numbers. To leave the second away is an error of up to 2^-8 of a
// weight.
NIB_HOST_DEVICE constexpr bool splits_weights(Format format) {
  return format == Format::f16 || format == Format::f32;
}

// A pair of floats: rounded to bf16, or what that leaves, rounded.
__device__ __forceinline__ std::uint32_t split_pair(float even, float odd, bool rest) {
  const std::uint32_t rounded = round_pair(even, odd);
  return rest ? round_pair(even - low_float(rounded), odd - high_float(rounded)) : rounded;
}

__device__ __forceinline__ std::uint32_t split_half_pair(std::uint32_t pair, bool rest) {
  const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&pair));
  return split_pair(values.x, values.y, rest);
}

// Fragments of k16 step `step` (0..3, known at compile time after unrolling). `rest` asks for the second part
// of weights that are split.
template <Format kFormat>
__device__ __forceinline__ void decode_step(const LaneCodes<kFormat>& codes, int step,
                                            const RowOperands& operands, std::uint32_t (&a)[4],
                                            bool rest = false) {
  if constexpr (format_bits(kFormat) == 4) {
    const uint4 v = codes.vectors[0];
    const std::uint32_t word = step == 0 ? v.x : step == 1 ? v.y : step == 2 ? v.z : v.w;
    if constexpr (kFormat == Format::int4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = subtract_pairs(((word >> (4 * i)) & 0x000F000FU) | 0x43004300U,
                              i % 2 == 0 ? operands.low : operands.high);
      }
    } else {
      decode_e2m1(word, a);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = multiply_pairs(a[i], i % 2 == 0 ? operands.low : operands.high);
    }
  } else if constexpr (format_bits(kFormat) == 8) {
    const uint4 v = codes.vectors[step / 2];
    const std::uint32_t words[2] = {step % 2 == 0 ? v.x : v.z, step % 2 == 0 ? v.y : v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kFormat == Format::fp8) {
        a[i] = decode_e4m3(words[i / 2], i % 2 == 0);
      } else {
        a[i] =
            subtract_pairs(decode_int8(words[i / 2], i % 2 == 0), i % 2 == 0 ? operands.low : operands.high);
      }
    }
  } else if constexpr (kFormat == Format::f32) {
    const uint4 v = codes.vectors[2 * step];
    const uint4 w = codes.vectors[2 * step + 1];
    a[0] = split_pair(__uint_as_float(v.x), __uint_as_float(v.y), rest);
    a[1] = split_pair(__uint_as_float(v.z), __uint_as_float(v.w), rest);
    a[2] = split_pair(__uint_as_float(w.x), __uint_as_float(w.y), rest);
    a[3] = split_pair(__uint_as_float(w.z), __uint_as_float(w.w), rest);
  } else {
    const uint4 v = codes.vectors[step];
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = kFormat == Format::f16 ? split_half_pair(words[i], rest) : words[i];
  }
}

// A lane's narrow scales of one block.
template <Format kFormat>
struct LaneScales {
  std::uint32_t words[kFormat == Format::nvfp4 ? 2 : 1];

  // `block` points at the block's scale_block_bytes in global or shared memory.
  __device__ __forceinline__ void load(const std::byte* block, int lane) {
    if constexpr (kFormat == Format::mxfp4) {
      words[0] = reinterpret_cast<const std::uint32_t*>(block)[lane / 4];
    } else {
      const uint2 pair = reinterpret_cast<const uint2*>(block)[lane / 4];
      words[0] = pair.x;
      words[1] = pair.y;
    }
  }

  [[nodiscard]] __device__ __forceinline__ RowOperands operands(int step) const {
    if constexpr (kFormat == Format::mxfp4) {  // exponent fields
      return {.low = spread_byte(words[0], step / 2) << 7, .high = spread_byte(words[0], 2 + step / 2) << 7};
    } else {  // E5M3, bias 21: exponent field + 224 is that of scale * 2^118
      constexpr std::uint32_t kExponent = 0x70007000U;
      return {.low = (spread_byte(words[0], step) << 4) | kExponent,
              .high = (spread_byte(words[1], step) << 4) | kExponent};
    }
  }
};

// What decode_step subtracts from an integer code, from the weight's zero point.
template <Format kFormat>
__device__ __forceinline__ std::uint32_t zero_operand(int zero) {
  const float value = static_cast<float>(kFormat == Format::int4 ? 136 + zero : zero);
  return round_pair(value, value);
}
template <Format kFormat>
__device__ __forceinline__ RowOperands no_zeros() {
  if constexpr (kFormat == Format::int4) return {.low = 0x43084308U, .high = 0x43084308U};
  return {};
}

// The scale group of packed columns [chunk * kChunkK, ...).
__device__ __forceinline__ int scale_group(const PackedWeight& w, int chunk) {
  const auto group =
      w.scale_magic == 0 ? chunk : static_cast<int>(__umulhi(static_cast<unsigned>(chunk), w.scale_magic));
  return group < w.scale_groups ? group : w.scale_groups - 1;
}

// Whether a block's two chunks always share their scales.
__device__ __forceinline__ bool scales_whole_blocks(const PackedWeight& w) {
  return w.chunks_per_scale % 2 == 0 || w.scale_groups == 1;
}

// Where a row tile of a group lies.
struct TileAddress {
  const std::byte* codes;
  const std::byte* scales;
};
__device__ __forceinline__ TileAddress tile_address(const PackedWeight& w, int group, int tile) {
  return {.codes = w.codes + group * w.group_code_bytes + tile * w.tile_code_bytes,
          .scales = w.scales + group * w.group_scale_bytes + tile * w.tile_scale_bytes};
}
// Of the group's rows; null without act-order.
__device__ __forceinline__ const std::int32_t* permutation_of(const PackedWeight& w, int group) {
  if (w.permutation_offset == 0) return nullptr;
  return reinterpret_cast<const std::int32_t*>(w.scales + group * w.group_scale_bytes + w.permutation_offset);
}
// What sums of a row are multiplied by in the end (1 without narrow scales).
__device__ __forceinline__ float row_factor(const PackedWeight& w, const std::byte* tile_scales, int row) {
  return w.factors_offset == 0 ? 1.0F : reinterpret_cast<const float*>(tile_scales + w.factors_offset)[row];
}
__device__ __forceinline__ float wide_scale(const std::byte* tile_scales, int group, int row) {
  return reinterpret_cast<const float*>(tile_scales)[group * kTileRows + row];
}
__device__ __forceinline__ int zero_point(const PackedWeight& w, const std::byte* tile_scales, int group,
                                          int row) {
  return w.zeros_offset == 0
             ? 0
             : reinterpret_cast<const std::int8_t*>(tile_scales + w.zeros_offset)[group * kTileRows + row];
}

// Operands of decode_step for step `step` of block `block`, and the scales of the lane's two rows that the
// products are then multiplied by. Reads scales from where the weight lies: for kernels in no hurry.
template <Format kFormat>
__device__ __forceinline__ RowOperands load_operands(const PackedWeight& w, const std::byte* tile_scales,
                                                     int block, int step, int lane, float (&scale)[2]) {
  scale[0] = 1.0F;
  scale[1] = 1.0F;
  if constexpr (has_narrow_scales(kFormat)) {
    LaneScales<kFormat> scales;
    scales.load(tile_scales + static_cast<std::int64_t>(block) * scale_block_bytes(kFormat), lane);
    return scales.operands(step);
  } else if constexpr (has_wide_scales(kFormat)) {
    const int group = scale_group(w, block * (kBlockK / kChunkK) + step / 2);
    const int row = lane / 4;
    scale[0] = wide_scale(tile_scales, group, row);
    scale[1] = wide_scale(tile_scales, group, row + 8);
    if constexpr (kFormat == Format::fp8) return {};
    return {.low = zero_operand<kFormat>(zero_point(w, tile_scales, group, row)),
            .high = zero_operand<kFormat>(zero_point(w, tile_scales, group, row + 8))};
  }
  return {};
}

// The eight weights of a step as float32, exactly up to scale and factor: [2 i] and [2 i + 1] are a_i's pair.
template <Format kFormat>
__device__ __forceinline__ void decode_floats(const LaneCodes<kFormat>& codes, int step,
                                              const RowOperands& operands, float (&weights)[8]) {
  if constexpr (kFormat == Format::f32) {
    const uint4 v = codes.vectors[2 * step];
    const uint4 w = codes.vectors[2 * step + 1];
    const std::uint32_t words[8] = {v.x, v.y, v.z, v.w, w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) weights[i] = __uint_as_float(words[i]);
  } else if constexpr (kFormat == Format::f16) {
    const uint4 v = codes.vectors[step];
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      weights[2 * i] = pair.x;
      weights[2 * i + 1] = pair.y;
    }
  } else {
    std::uint32_t a[4];
    decode_step(codes, step, operands, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[2 * i] = low_float(a[i]);
      weights[2 * i + 1] = high_float(a[i]);
    }
  }
}

}  // namespace nibble::kernels::cuda
