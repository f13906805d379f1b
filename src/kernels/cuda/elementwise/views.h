// Tensor views as the launch functions take them.
#pragma once

#include "core/check.h"
#include "core/tensor.h"
#include "kernels/cache_layout.h"
#include "kernels/cuda/elementwise/elementwise.h"

namespace nibble::kernels::cuda {

inline Rows rows_of(const TensorView& t) { return {.data = t.f32(), .stride = t.stride[0]}; }

// The cache of one layer; checks its type and the size of its entries.
inline CacheEntries entries_of(const TensorView& cache, std::int64_t d_latent, std::int64_t d_rope) {
  auto codes = CacheCodes::f32;
  if (cache.dtype == DType::bf16) codes = CacheCodes::bf16;
  if (cache.dtype == DType::f8_e4m3) codes = CacheCodes::e4m3;
  if (cache.dtype == DType::f8_e5m2) codes = CacheCodes::e5m2;
  NIB_CHECK(codes != CacheCodes::f32 || cache.dtype == DType::f32,
            "the cache is F32, BF16, F8_E4M3 or F8_E5M2, not {}", dtype_name(cache.dtype));
  NIB_CHECK(cache.dim(1) == cache_width(cache.dtype, d_latent, d_rope),
            "cache entries of {} {} for {} + {} values", cache.dim(1), dtype_name(cache.dtype), d_latent,
            d_rope);
  return {.data = cache.data, .stride = cache.stride[0], .codes = codes};
}

}  // namespace nibble::kernels::cuda
