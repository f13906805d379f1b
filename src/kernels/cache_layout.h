// What one cache entry (one token of one layer) looks like in each cache dtype.
//
//   f32, bf16         kv_lora_rank latent values, then qk_rope_head_dim values of the rotated rope key
//   f8_e4m3, f8_e5m2  kv_lora_rank codes, padding to 4 bytes, the latent's float32 scale, then the rope
//                     key in bf16 (rounding it to eight bits costs far more than it saves)
//
// The scale of an FP8 entry is that token's own max|latent| / largest code. It is stored with the
// codes, so that what was written stays valid whatever comes later, and no sequence's results depend on
// what else is being served.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace nibble::kernels {

constexpr bool is_fp8_cache(DType dtype) { return dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2; }

// Where scale and rope key of an FP8 entry begin, in bytes.
constexpr std::int64_t fp8_scale_offset(std::int64_t d_latent) { return (d_latent + 3) / 4 * 4; }
constexpr std::int64_t fp8_rope_offset(std::int64_t d_latent) { return fp8_scale_offset(d_latent) + 4; }

// Elements of `dtype` of one entry; for FP8 its bytes, a multiple of 4.
constexpr std::int64_t cache_width(DType dtype, std::int64_t d_latent, std::int64_t d_rope) {
  if (!is_fp8_cache(dtype)) return d_latent + d_rope;
  return (fp8_rope_offset(d_latent) + 2 * d_rope + 3) / 4 * 4;
}

}  // namespace nibble::kernels
