// Inputs through FP8 on their way into a product, as quant/activations.cpp rounds them: codes of E4M3 with a
// scale for every 128, the largest magnitude / 448. What is not finite becomes NaN, with its group.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace nibble::kernels::cuda {

constexpr int kE4m3Group = 128;  // inputs that share a scale

// The largest of kThreads neighbouring lanes' groups of values; all lanes of such a set call it together.
template <int kThreads, int kCount>
__device__ __forceinline__ float largest_magnitude(const float (&values)[kCount]) {
  constexpr float kFloor = 1e-12F;
  float largest = kFloor;
#pragma unroll
  for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, fabsf(values[i]));
  const unsigned lanes = ((1U << kThreads) - 1U) << (threadIdx.x % 32 / kThreads * kThreads);
#pragma unroll
  for (int offset = 1; offset < kThreads; offset *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(lanes, largest, offset));
  }
  return largest;
}

__device__ __forceinline__ float e4m3_scale(float largest) {
  constexpr float kE4m3Max = 448.0F;
  return __fdiv_rn(largest, kE4m3Max);
}

// kCount codes, two in the low half of each word, and what they stand for.
template <int kCount>
struct E4m3Codes {
  std::uint32_t pairs[kCount / 2];

  __device__ __forceinline__ void make(const float (&scaled)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      pairs[i] = __nv_cvt_float2_to_fp8x2({scaled[2 * i], scaled[2 * i + 1]}, __NV_SATFINITE, __NV_E4M3);
    }
  }
  __device__ __forceinline__ void values(float scale, float (&values)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const __half2 pair(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pairs[i]), __NV_E4M3));
      values[2 * i] = __low2float(pair) * scale;
      values[2 * i + 1] = __high2float(pair) * scale;
    }
  }
};

// A group's values through FP8; kThreads lanes have kCount each.
template <int kThreads, int kCount>
__device__ __forceinline__ void round_to_e4m3(float (&values)[kCount]) {
  static_assert(kThreads * kCount == kE4m3Group);
  const float scale = e4m3_scale(largest_magnitude<kThreads>(values));
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = __fdiv_rn(values[i], scale);
  E4m3Codes<kCount> codes;
  codes.make(values);
  codes.values(scale, values);
}

}  // namespace nibble::kernels::cuda
