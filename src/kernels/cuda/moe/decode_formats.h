// The decode products, each format compiled on its own (decode_<format>.cu).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/decode.h"

namespace nibble::kernels::cuda::moe {

struct DecodeProducts {
  int (*first_tile_tokens)(const MoeParams& p, int wanted);
  int (*second_tile_tokens)(const MoeParams& p, int wanted);
  void (*first)(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream);
  void (*second)(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream);
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
