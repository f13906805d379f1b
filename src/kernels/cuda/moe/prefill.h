// Launches of the prefill products: many tokens per expert. Every format but f16 and f32, no act-order.
//
// Tokens lie as the copy engine and wgmma want them: of each tile, per panel of 128 bytes of columns (64 bf16
// or 128 E4M3), atoms of 8 tokens x 128 bytes whose 16-byte pieces are swizzled. A piece of E4M3 is 16
// columns as the packed weights' lanes hold theirs (layout.h): bytes 4t to 4t + 3 are columns 2t, 2t + 1, 2t
// + 8 and 2t + 9. E4M3 has a scale per token and panel, [tile][panel][padded tokens].
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

inline constexpr std::int32_t kPrefillTileTokens = 128;
inline constexpr std::int32_t kPrefillFewerTokens = 112;  // FP8 products, wide scales
inline constexpr std::int32_t kMiddleTileTokens = 32;

// Where p.hidden is fp8 and tokens are bf16, hidden values are rounded to what E4M3 holds.
struct PrefillParams {
  MoeParams p;
  std::byte* x;     // sorted tokens
  float* x_scales;  // E4M3 only
  std::byte* h;     // hidden values
  float* h_scales;
};

// x, gathered and rounded to bf16, or quantised to E4M3 with a scale per 128 columns.
void launch_prefill_gather(const PrefillParams& params, cudaStream_t stream);
void launch_prefill_gather_fp8(const PrefillParams& params, cudaStream_t stream);

struct PrefillProducts {
  void (*first)(const PrefillParams& params, int num_sms, cudaStream_t stream);
  void (*second)(const PrefillParams& params, int num_sms, cudaStream_t stream);
};

// Two computing warpgroups and tiles of up to 128 tokens (prefill; E4M3 and wide scales: 112), or four and 32
// (middle). By the weights' format; the last two of each kind multiply E4M3 tokens.
extern const PrefillProducts kPrefillMxfp4;
extern const PrefillProducts kPrefillNvfp4;
extern const PrefillProducts kPrefillBf16;
extern const PrefillProducts kPrefillFp8;
extern const PrefillProducts kPrefillInt8;
extern const PrefillProducts kPrefillInt4;
extern const PrefillProducts kPrefillMxfp4Fp8;
extern const PrefillProducts kPrefillFp8Fp8;
extern const PrefillProducts kMiddleMxfp4;
extern const PrefillProducts kMiddleNvfp4;
extern const PrefillProducts kMiddleFp8;
extern const PrefillProducts kMiddleInt8;
extern const PrefillProducts kMiddleInt4;
extern const PrefillProducts kMiddleMxfp4Fp8;
extern const PrefillProducts kMiddleFp8Fp8;

}  // namespace nibble::kernels::cuda::moe
