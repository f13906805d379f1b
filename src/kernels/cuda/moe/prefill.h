// Launches of the prefill products: many tokens per expert, 4-bit floats.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

inline constexpr std::int32_t kPrefillTileTokens = 128;
inline constexpr std::int32_t kMiddleTileTokens = 32;

// Rows of tokens as the copy engine and wgmma want them: of each tile, per 64 columns, atoms of 8 tokens x
// 128 bytes, 16-byte pieces swizzled. A tile's rows lie at tile.begin * num_blocks * 128 bytes.
struct PrefillParams {
  MoeParams p;
  std::uint16_t* x;  // bf16, sorted
  std::uint16_t* h;
  std::int64_t max_tiles;
};

// x rounded to bf16 and gathered.
void launch_prefill_gather(const PrefillParams& params, cudaStream_t stream);

// Two warpgroups and tiles of kPrefillTileTokens, or four and kMiddleTileTokens (`middle`).
void launch_prefill_first(const PrefillParams& params, bool middle, int num_sms, cudaStream_t stream);
void launch_prefill_second(const PrefillParams& params, bool middle, int num_sms, cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
