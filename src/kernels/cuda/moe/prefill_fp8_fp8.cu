#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillFp8Fp8 = prefill_products<Format::fp8, Input::fp8, 2>();
const PrefillProducts kMiddleFp8Fp8 = prefill_products<Format::fp8, Input::fp8, 4>();

}  // namespace nibble::kernels::cuda::moe
