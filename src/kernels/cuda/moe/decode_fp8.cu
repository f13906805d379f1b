#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeFp8 = decode_products<Format::fp8>();

}  // namespace nibble::kernels::cuda::moe
