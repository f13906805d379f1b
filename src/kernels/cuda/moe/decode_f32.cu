#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeF32 = decode_products<Format::f32>();

}  // namespace nibble::kernels::cuda::moe
