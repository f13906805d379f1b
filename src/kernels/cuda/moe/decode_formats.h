// The decode products, each format compiled on its own (decode_<format>.cu).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

inline constexpr std::int32_t kDecodeTileTokens = 8;

struct DecodeOptions {
  int num_sms;
  int tile_tokens;  // tokens per tile, at most kDecodeTileTokens
};

// products: kFirst, h = silu(gate x) * (up x) for every sorted slot; kSecond, partial = weight * down h for
// every slot; or both in one launch.
struct DecodeProducts {
  // The most tokens per tile, up to `wanted`, that there is shared memory for.
  int (*tile_tokens)(const MoeParams& p, unsigned products, int wanted);
  void (*launch)(const MoeParams& p, const DecodeOptions& options, unsigned products, cudaStream_t stream);
};

extern const DecodeProducts kDecodeF32;
extern const DecodeProducts kDecodeF16;
extern const DecodeProducts kDecodeBf16;
extern const DecodeProducts kDecodeFp8;
extern const DecodeProducts kDecodeMxfp4;
extern const DecodeProducts kDecodeNvfp4;
extern const DecodeProducts kDecodeInt8;
extern const DecodeProducts kDecodeInt4;

}  // namespace nibble::kernels::cuda::moe
