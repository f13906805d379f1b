// Scalar arithmetic and row addressing shared by the reference kernels.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "core/tensor.h"
#include "kernels/cache_layout.h"
#include "kernels/exec.h"
#include "quant/float16.h"
#include "quant/float8.h"

namespace nibble::kernels::ref {

// Sum of a[i] * b[i] in eight interleaved partial sums: shorter chains lose less to rounding than one
// long one, and a compiler may keep them in vector registers.
inline float dot(const float* a, const float* b, std::int64_t k) {
  constexpr std::int64_t kLanes = 8;
  std::array<float, kLanes> sums{};
  std::int64_t kk = 0;
  for (; kk + kLanes <= k; kk += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<std::size_t>(lane)] += a[kk + lane] * b[kk + lane];
    }
  }
  for (std::int64_t lane = 0; kk < k; ++kk, ++lane) sums[static_cast<std::size_t>(lane)] += a[kk] * b[kk];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

inline float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }
inline float silu(float x) { return x / (1.0F + std::exp(-x)); }

// Start of row i, and of [i, j], of a float32 view.
inline float* row_of(const TensorView& t, std::int64_t i) { return t.f32() + i * t.stride[0]; }
inline float* row_of(const TensorView& t, std::int64_t i, std::int64_t j) {
  return t.f32() + i * t.stride[0] + j * t.stride[1];
}

// One entry of a paged cache as float32: latent, then rope key. f32 entries are used in place; others are
// decoded into `buffer`, which holds d_latent + d_rope values.
inline const float* cache_entry(const TensorView& cache, std::int64_t slot, std::int64_t d_latent,
                                std::int64_t d_rope, float* buffer) {
  NIB_DCHECK(slot >= 0 && slot < cache.dim(0), "slot {} of {}", slot, cache.dim(0));
  if (cache.dtype == DType::f32) return cache.as<float>() + slot * cache.stride[0];
  const std::uint16_t* halves = cache.as<std::uint16_t>() + slot * cache.stride[0];
  std::int64_t first = 0;  // of the values that are bf16
  if (is_fp8_cache(cache.dtype)) {
    const std::uint8_t* entry = cache.as<std::uint8_t>() + slot * cache.stride[0];
    float scale;
    std::memcpy(&scale, entry + fp8_scale_offset(d_latent), sizeof(scale));
    const auto& values = cache.dtype == DType::f8_e4m3 ? quant::kE4m3Values : quant::kE5m2Values;
    for (std::int64_t i = 0; i < d_latent; ++i) buffer[i] = values[entry[i]] * scale;
    halves = reinterpret_cast<const std::uint16_t*>(entry + fp8_rope_offset(d_latent)) - d_latent;
    first = d_latent;
  }
  for (std::int64_t i = first; i < d_latent + d_rope; ++i) buffer[i] = quant::bf16_to_float(halves[i]);
  return buffer;
}

inline void check_cache(const TensorView& cache, std::int64_t d_latent, std::int64_t d_rope) {
  NIB_CHECK(cache.dtype == DType::f32 || cache.dtype == DType::bf16 || is_fp8_cache(cache.dtype),
            "the cache is F32, BF16, F8_E4M3 or F8_E5M2, not {}", dtype_name(cache.dtype));
  NIB_CHECK(cache.dim(1) == cache_width(cache.dtype, d_latent, d_rope),
            "cache entries of {} {} for {} + {} values", cache.dim(1), dtype_name(cache.dtype), d_latent,
            d_rope);
}

// Scratch of one op: `per_thread` floats for each thread.
class ThreadFloats {
 public:
  ThreadFloats(Exec& exec, std::int64_t per_thread)
      : data_(reinterpret_cast<float*>(exec.scratch(
            static_cast<std::size_t>(per_thread * exec.threads().num_threads()) * sizeof(float)))),
        per_thread_(per_thread) {}

  [[nodiscard]] float* of(int thread) const { return data_ + thread * per_thread_; }

 private:
  float* data_;
  std::int64_t per_thread_;
};

}  // namespace nibble::kernels::ref
