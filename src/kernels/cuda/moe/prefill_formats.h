// The prefill products, each format and shape compiled on its own (prefill_<format>.cu, middle_<format>.cu).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/prefill.h"

namespace nibble::kernels::cuda::moe {

struct PrefillProducts {
  void (*first)(const PrefillParams& params, int num_sms, cudaStream_t stream);
  void (*second)(const PrefillParams& params, int num_sms, cudaStream_t stream);
};

extern const PrefillProducts kPrefillMxfp4;
extern const PrefillProducts kPrefillNvfp4;
extern const PrefillProducts kMiddleMxfp4;
extern const PrefillProducts kMiddleNvfp4;

}  // namespace nibble::kernels::cuda::moe
