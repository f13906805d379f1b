#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillFp8 = prefill_products<Format::fp8, Input::bf16, 2>();
const PrefillProducts kMiddleFp8 = prefill_products<Format::fp8, Input::bf16, 4>();

}  // namespace nibble::kernels::cuda::moe
