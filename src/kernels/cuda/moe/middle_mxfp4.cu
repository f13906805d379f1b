#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kMiddleMxfp4 = prefill_products<Format::mxfp4, Input::bf16, 4>();

}  // namespace nibble::kernels::cuda::moe
