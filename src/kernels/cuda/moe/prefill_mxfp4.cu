#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillMxfp4 = prefill_products<Format::mxfp4, Input::bf16, 2>();

}  // namespace nibble::kernels::cuda::moe
