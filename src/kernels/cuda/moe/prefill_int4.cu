#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillInt4 = prefill_products<Format::int4, Input::bf16, 2>();
const PrefillProducts kMiddleInt4 = prefill_products<Format::int4, Input::bf16, 4>();

}  // namespace nibble::kernels::cuda::moe
