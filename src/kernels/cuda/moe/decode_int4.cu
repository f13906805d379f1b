#include "kernels/cuda/moe/decode.cuh"

namespace nibble::kernels::cuda::moe {

const DecodeProducts kDecodeInt4 = decode_products<Format::int4>();

}  // namespace nibble::kernels::cuda::moe
