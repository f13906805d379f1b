#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kMiddleNvfp4 = prefill_products<Format::nvfp4, Input::bf16, 4>();

}  // namespace nibble::kernels::cuda::moe
