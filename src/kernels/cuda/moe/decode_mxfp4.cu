#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeMxfp4 = decode_products<Format::mxfp4>();

}  // namespace nibble::kernels::cuda::moe
