#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {

void launch_prefill_first_nvfp4(const PrefillParams& params, int num_sms, cudaStream_t stream) {
  launch_prefill_product<Format::nvfp4, true>(params, num_sms, stream);
}

void launch_prefill_second_nvfp4(const PrefillParams& params, int num_sms, cudaStream_t stream) {
  launch_prefill_product<Format::nvfp4, false>(params, num_sms, stream);
}

}  // namespace nibble::kernels::cuda::moe
