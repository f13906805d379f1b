// Launches of the decode products (few tokens per expert), one pair of functions per weight format.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

inline constexpr std::int32_t kDecodeTileTokens = 8;

struct DecodeOptions {
  int num_sms;
  int tile_tokens;  // tokens per tile, at most kDecodeTileTokens
  bool overlap;     // may start before the kernel in front has finished
};

// The most tokens per tile, up to options.tile_tokens, that both products have shared memory for.
int decode_tile_tokens(const MoeParams& p, const DecodeOptions& options);

// h = silu(gate x) * (up x) for every sorted slot.
void launch_decode_first(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream);

// partial = weight * down h for every slot.
void launch_decode_second(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
