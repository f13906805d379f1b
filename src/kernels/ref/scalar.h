// Scalar arithmetic and row addressing shared by the reference kernels.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "core/check.h"
#include "core/tensor.h"
#include "kernels/exec.h"
#include "quant/float16.h"

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

// One entry of a paged cache as float32. f32 entries are used in place; bf16 ones are widened into
// `buffer`.
inline const float* cache_entry(const TensorView& cache, std::int64_t slot, float* buffer) {
  NIB_DCHECK(slot >= 0 && slot < cache.dim(0), "slot {} of {}", slot, cache.dim(0));
  if (cache.dtype == DType::f32) return cache.as<float>() + slot * cache.stride[0];
  const std::uint16_t* entry = cache.as<std::uint16_t>() + slot * cache.stride[0];
  for (std::int64_t i = 0; i < cache.dim(1); ++i) buffer[i] = quant::bf16_to_float(entry[i]);
  return buffer;
}

inline void check_cache_dtype(const TensorView& cache) {
  NIB_CHECK(cache.dtype == DType::f32 || cache.dtype == DType::bf16, "the cache is F32 or BF16, not {}",
            dtype_name(cache.dtype));
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
