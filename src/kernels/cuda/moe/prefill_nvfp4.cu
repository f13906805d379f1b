#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillNvfp4 = prefill_products<Format::nvfp4, Input::bf16, 2>();

}  // namespace nibble::kernels::cuda::moe
