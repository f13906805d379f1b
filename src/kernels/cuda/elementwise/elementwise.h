// Launches of the element-wise kernels. All pointers are device pointers, strides are in elements (of
// the cache's type for the cache), a launch with nothing to do is left out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::kernels::cuda {

// A float32 matrix with strided rows; rows need no alignment beyond that of a float.
struct Rows {
  float* data;
  std::int64_t stride;
};

// x += add unless add.data is null; y = x / sqrt(mean(x^2) + eps) * weight over d columns. y may be x.
void launch_rms_norm(cudaStream_t stream, Rows x, Rows add, const float* weight, float eps, Rows y,
                     std::int64_t m, std::int64_t d);

// x += y.
void launch_add(cudaStream_t stream, Rows x, Rows y, std::int64_t m, std::int64_t d);

enum class ActivationCodes : std::uint8_t { none, fp8, int8 };

// y = dequantise(quantise(x)) of quant/activations.h, bit for bit. y may be x.
void launch_quantize_activation(cudaStream_t stream, ActivationCodes codes, Rows x, Rows y, std::int64_t m,
                                std::int64_t k);

// Rotates the interleaved pairs of [m, heads, 2 * num_pairs] in place. Rows whose position lies outside
// the table (padding) stay as they are.
struct RopeLaunch {
  float* x;
  std::int64_t row_stride;
  std::int64_t head_stride;
  std::int64_t m;
  std::int64_t heads;
  std::int64_t num_pairs;
  const std::int32_t* positions;
  const float* cos;
  std::int64_t cos_stride;
  const float* sin;
  std::int64_t sin_stride;
  std::int64_t max_positions;
};
void launch_rope(cudaStream_t stream, const RopeLaunch& launch);

// Entries as cache_layout.h has them.
enum class CacheCodes : std::uint8_t { f32, bf16, e4m3, e5m2 };

struct CacheEntries {
  void* data;
  std::int64_t stride;
  CacheCodes codes;
};

// latent = rms_norm(latent), k_pe = rope(k_pe), both in place, if norm_weight is not null. A position outside
// the table (padding) leaves k_pe as it is.
struct EntryPrologue {
  const float* norm_weight;
  float norm_eps;
  const std::int32_t* positions;
  const float* cos;
  std::int64_t cos_stride;
  const float* sin;
  std::int64_t sin_stride;
  std::int64_t max_positions;
};

// Writes m entries; a slot below zero skips its token.
struct CacheWriteLaunch {
  Rows latent;
  Rows k_pe;
  const std::int32_t* slot_mapping;
  CacheEntries cache;
  EntryPrologue prologue;
  std::int64_t m;
  std::int32_t d_latent;
  std::int32_t d_rope;
};
void launch_cache_write(cudaStream_t stream, const CacheWriteLaunch& launch);

// Reads the first `length` entries of one sequence.
void launch_cache_gather(cudaStream_t stream, CacheEntries cache, const std::int32_t* page_table,
                         std::int32_t page_size, std::int64_t length, Rows latent, Rows k_pe,
                         std::int64_t d_latent, std::int64_t d_rope);

}  // namespace nibble::kernels::cuda
