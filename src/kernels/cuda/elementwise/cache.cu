// cache_write and cache_gather: one entry a block. Codes and scales equal the reference's bit for bit.
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/cache_codes.cuh"
#include "kernels/cuda/elementwise/reduce.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// The reference keeps a NaN's sign and upper bits; __float2bfloat16_rn would not.
__device__ __forceinline__ std::uint16_t bf16_bits(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  if (isnan(x)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// A token whose latent is not finite gets a scale that is not: its entry reads as NaN.
template <CacheCodes kCodes>
__device__ void write_fp8(std::uint8_t* entry, const float* latent, const float* k_pe, int d_latent,
                          int d_rope) {
  constexpr float kLargest = kCodes == CacheCodes::e4m3 ? 448.0F : 57344.0F;
  float amax = 1e-12F;
  bool finite = true;
  for (int i = static_cast<int>(threadIdx.x); i < d_latent; i += kThreads) {
    finite &= isfinite(latent[i]) != 0;
    amax = fmaxf(amax, fabsf(latent[i]));
  }
  finite = __syncthreads_and(finite) != 0;
  const float scale = __fdiv_rn(block_reduce(amax, Max{}), kLargest);
  for (int i = static_cast<int>(threadIdx.x); i < d_latent; i += kThreads) {
    entry[i] = fp8_code<kCodes>(finite ? __fdiv_rn(latent[i], scale) : 0.0F);
  }
  if (threadIdx.x == 0) {
    *reinterpret_cast<std::uint32_t*>(entry + fp8_scale_at(d_latent)) =
        finite ? __float_as_uint(scale) : 0x7FC00000U;
  }
  auto* rope = reinterpret_cast<std::uint16_t*>(entry + fp8_rope_at(d_latent));
  for (int i = static_cast<int>(threadIdx.x); i < d_rope; i += kThreads) rope[i] = bf16_bits(k_pe[i]);
}

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads)
    cache_write_kernel(Rows latents, Rows k_pes, const std::int32_t* slot_mapping, void* cache,
                       std::int64_t stride, int d_latent, int d_rope) {
  begin_overlapped();
  const std::int64_t slot = slot_mapping[blockIdx.x];
  if (slot < 0) return;
  const float* latent = latents.data + static_cast<std::int64_t>(blockIdx.x) * latents.stride;
  const float* k_pe = k_pes.data + static_cast<std::int64_t>(blockIdx.x) * k_pes.stride;
  if constexpr (kCodes == CacheCodes::f32 || kCodes == CacheCodes::bf16) {
    for (int i = static_cast<int>(threadIdx.x); i < d_latent + d_rope; i += kThreads) {
      const float value = i < d_latent ? latent[i] : k_pe[i - d_latent];
      if constexpr (kCodes == CacheCodes::f32) {
        static_cast<float*>(cache)[slot * stride + i] = value;
      } else {
        static_cast<std::uint16_t*>(cache)[slot * stride + i] = bf16_bits(value);
      }
    }
  } else {
    write_fp8<kCodes>(static_cast<std::uint8_t*>(cache) + slot * stride, latent, k_pe, d_latent, d_rope);
  }
}

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads)
    cache_gather_kernel(const void* cache, std::int64_t stride, const std::int32_t* page_table,
                        std::int32_t page_size, Rows latents, Rows k_pes, int d_latent, int d_rope) {
  const std::int64_t i = blockIdx.x;
  const std::int64_t slot = std::int64_t{page_table[i / page_size]} * page_size + i % page_size;
  const CacheEntry<kCodes> entry(cache, stride, slot, d_latent);
  float* latent = latents.data + i * latents.stride;
  float* k_pe = k_pes.data + i * k_pes.stride;
  for (int c = static_cast<int>(threadIdx.x); c < d_latent + d_rope; c += kThreads) {
    (c < d_latent ? latent[c] : k_pe[c - d_latent]) = entry.value(c);
  }
}

}  // namespace

void launch_cache_write(cudaStream_t stream, Rows latent, Rows k_pe, const std::int32_t* slot_mapping,
                        CacheEntries cache, std::int64_t m, std::int64_t d_latent, std::int64_t d_rope) {
  if (m == 0) return;
  with_codes(cache.codes, [&](auto codes) {
    launch_overlapped(cache_write_kernel<codes.value>, dim3(static_cast<unsigned>(m)), kThreads, 0, stream,
                      latent, k_pe, slot_mapping, cache.data, cache.stride, static_cast<int>(d_latent),
                      static_cast<int>(d_rope));
  });
  check_launch("cache_write");
}

void launch_cache_gather(cudaStream_t stream, CacheEntries cache, const std::int32_t* page_table,
                         std::int32_t page_size, std::int64_t length, Rows latent, Rows k_pe,
                         std::int64_t d_latent, std::int64_t d_rope) {
  if (length == 0) return;
  with_codes(cache.codes, [&](auto codes) {
    cache_gather_kernel<codes.value><<<static_cast<unsigned>(length), kThreads, 0, stream>>>(
        cache.data, cache.stride, page_table, page_size, latent, k_pe, static_cast<int>(d_latent),
        static_cast<int>(d_rope));
  });
  check_launch("cache_gather");
}

}  // namespace nibble::kernels::cuda
