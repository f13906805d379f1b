#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillInt8 = prefill_products<Format::int8, Input::bf16, 2>();
const PrefillProducts kMiddleInt8 = prefill_products<Format::int8, Input::bf16, 4>();

}  // namespace nibble::kernels::cuda::moe
