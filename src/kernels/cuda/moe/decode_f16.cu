#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeF16 = decode_products<Format::f16>();

}  // namespace nibble::kernels::cuda::moe
