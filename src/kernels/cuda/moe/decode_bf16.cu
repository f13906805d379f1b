#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeBf16 = decode_products<Format::bf16>();

}  // namespace nibble::kernels::cuda::moe
