#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kMiddleMxfp4Fp8 = prefill_products<Format::mxfp4, Input::fp8, 4>();

}  // namespace nibble::kernels::cuda::moe
