// Launch of the sampling kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/args/sample_row.h"

namespace nibble::kernels::cuda {

// kernels::SampleArgs as plain values; all pointers are device memory.
struct SampleParams {
  float* logits;  // [m, vocabulary], rows logits_stride floats apart
  std::int64_t logits_stride;
  const SampleRow* rows;
  const TokenCount* history;
  std::int32_t* ids;
  std::int32_t m;
  std::int32_t vocabulary;
};

void launch_sample(const SampleParams& params, cudaStream_t stream);

}  // namespace nibble::kernels::cuda
