// Launching a kernel before its predecessor in the stream has ended (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

// The kernel must call cudaGridDependencySynchronize before it touches memory that others write or read.
template <class... Parameters, class... Arguments>
void launch_overlapped(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                       cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

}  // namespace nibble::kernels::cuda
