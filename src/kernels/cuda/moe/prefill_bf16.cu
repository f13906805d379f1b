#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillBf16 = prefill_products<Format::bf16, Input::bf16, 2>();

}  // namespace nibble::kernels::cuda::moe
