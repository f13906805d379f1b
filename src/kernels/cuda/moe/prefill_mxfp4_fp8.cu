#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillMxfp4Fp8 = prefill_products<Format::mxfp4, Input::fp8, 2>();

}  // namespace nibble::kernels::cuda::moe
