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

// Value i of latent belongs to thread i % kThreads, here and below.
__device__ void norm_and_rotate(const EntryPrologue& p, std::int64_t row, float* latent, float* k_pe,
                                int d_latent, int d_rope) {
  float squares = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < d_latent; i += kThreads) squares += latent[i] * latent[i];
  const std::int64_t position = p.positions[row];
  if (position >= 0 && position < p.max_positions) {
    for (int i = static_cast<int>(threadIdx.x); i < d_rope / 2; i += kThreads) {
      const float cos = p.cos[position * p.cos_stride + i];
      const float sin = p.sin[position * p.sin_stride + i];
      const float even = k_pe[2 * i];
      const float odd = k_pe[2 * i + 1];
      k_pe[2 * i] = even * cos - odd * sin;
      k_pe[2 * i + 1] = odd * cos + even * sin;
    }
  }
  // Also the barrier between writing k_pe and reading it.
  const float mean = block_reduce(squares, Sum{}) / static_cast<float>(d_latent);
  const float scale = 1.0F / sqrtf(mean + p.norm_eps);
  for (int i = static_cast<int>(threadIdx.x); i < d_latent; i += kThreads) {
    latent[i] = latent[i] * scale * p.norm_weight[i];
  }
}

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads) cache_write_kernel(const __grid_constant__ CacheWriteLaunch w) {
  begin_overlapped();
  const std::int64_t row = blockIdx.x;
  const std::int64_t slot = w.slot_mapping[row];
  if (slot < 0) return;
  float* latent = w.latent.data + row * w.latent.stride;
  float* k_pe = w.k_pe.data + row * w.k_pe.stride;
  if (w.prologue.norm_weight != nullptr) {
    norm_and_rotate(w.prologue, row, latent, k_pe, w.d_latent, w.d_rope);
  }
  if constexpr (kCodes == CacheCodes::f32 || kCodes == CacheCodes::bf16) {
    for (int i = static_cast<int>(threadIdx.x); i < w.d_latent + w.d_rope; i += kThreads) {
      const float value = i < w.d_latent ? latent[i] : k_pe[i - w.d_latent];
      if constexpr (kCodes == CacheCodes::f32) {
        static_cast<float*>(w.cache.data)[slot * w.cache.stride + i] = value;
      } else {
        static_cast<std::uint16_t*>(w.cache.data)[slot * w.cache.stride + i] = bf16_bits(value);
      }
    }
  } else {
    write_fp8<kCodes>(static_cast<std::uint8_t*>(w.cache.data) + slot * w.cache.stride, latent, k_pe,
                      w.d_latent, w.d_rope);
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

void launch_cache_write(cudaStream_t stream, const CacheWriteLaunch& launch) {
  if (launch.m == 0) return;
  with_codes(launch.cache.codes, [&](auto codes) {
    launch_overlapped(cache_write_kernel<codes.value>, dim3(static_cast<unsigned>(launch.m)), kThreads, 0,
                      stream, launch);
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
