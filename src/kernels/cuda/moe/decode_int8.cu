#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeInt8 = decode_products<Format::int8>();

}  // namespace nibble::kernels::cuda::moe
