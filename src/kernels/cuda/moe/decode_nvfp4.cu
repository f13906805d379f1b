#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeNvfp4 = decode_products<Format::nvfp4>();

}  // namespace nibble::kernels::cuda::moe
