// Decoding of cache entries in kernels; cache_layout.h has the format.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cache_layout.h"
#include "kernels/cuda/elementwise/elementwise.h"

namespace nibble::kernels::cuda {

// cache_layout.h's offsets, callable from kernels.
__host__ __device__ constexpr int fp8_scale_at(int d_latent) { return (d_latent + 3) / 4 * 4; }
__host__ __device__ constexpr int fp8_rope_at(int d_latent) { return fp8_scale_at(d_latent) + 4; }
static_assert(fp8_scale_at(37) == fp8_scale_offset(37) && fp8_rope_at(37) == fp8_rope_offset(37));

// A code of an FP8 cache as float32; exact, since f16 holds every E4M3 and E5M2 value.
template <CacheCodes kCodes>
__device__ __forceinline__ float fp8_value(std::uint8_t code) {
  constexpr auto kKind = kCodes == CacheCodes::e4m3 ? __NV_E4M3 : __NV_E5M2;
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, kKind)));
}

template <CacheCodes kCodes>
__device__ __forceinline__ std::uint8_t fp8_code(float x) {
  constexpr auto kKind = kCodes == CacheCodes::e4m3 ? __NV_E4M3 : __NV_E5M2;
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, kKind);
}

// One entry: value(i) of i in [0, d_latent) is the latent, of the d_rope after it the rope key.
template <CacheCodes kCodes>
class CacheEntry {
 public:
  __device__ CacheEntry(const void* data, std::int64_t stride, std::int64_t slot, int d_latent)
      : d_latent_(d_latent) {
    constexpr int kBytes = kCodes == CacheCodes::f32 ? 4 : kCodes == CacheCodes::bf16 ? 2 : 1;
    entry_ = static_cast<const std::uint8_t*>(data) + slot * stride * kBytes;
    if constexpr (kFp8) scale_ = *reinterpret_cast<const float*>(entry_ + fp8_scale_at(d_latent));
  }

  __device__ float value(int i) const {
    if constexpr (kCodes == CacheCodes::f32) {
      return reinterpret_cast<const float*>(entry_)[i];
    } else if constexpr (kCodes == CacheCodes::bf16) {
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(entry_)[i]);
    } else {
      if (i < d_latent_) return fp8_value<kCodes>(entry_[i]) * scale_;
      const auto* rope = reinterpret_cast<const __nv_bfloat16*>(entry_ + fp8_rope_at(d_latent_));
      return __bfloat162float(rope[i - d_latent_]);
    }
  }

 private:
  static constexpr bool kFp8 = kCodes == CacheCodes::e4m3 || kCodes == CacheCodes::e5m2;
  const std::uint8_t* entry_;
  int d_latent_;
  float scale_ = 1.0F;
};

// Calls f with the codes as a compile-time constant.
template <class F>
void with_codes(CacheCodes codes, F&& f) {
  switch (codes) {
    case CacheCodes::f32: return f(std::integral_constant<CacheCodes, CacheCodes::f32>{});
    case CacheCodes::bf16: return f(std::integral_constant<CacheCodes, CacheCodes::bf16>{});
    case CacheCodes::e4m3: return f(std::integral_constant<CacheCodes, CacheCodes::e4m3>{});
    case CacheCodes::e5m2: return f(std::integral_constant<CacheCodes, CacheCodes::e5m2>{});
  }
}

}  // namespace nibble::kernels::cuda
