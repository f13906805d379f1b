// Dynamic shared memory beyond the 48 KiB that every kernel may have.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

// Launches of this kernel may ask for as much as there is. For kernels whose need depends on the launch: the
// attribute belongs to the kernel, and another host thread may be about to launch it with more.
template <class... Parameters>
void allow_all_shared_memory(void (*kernel)(Parameters...)) {
  constexpr int kHopperBlockBytes = 227 * 1024;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kHopperBlockBytes - static_cast<int>(attributes.sharedSizeBytes)),
        "cudaFuncSetAttribute");
}

}  // namespace nibble::kernels::cuda
