// Turns CUDA's error codes into exceptions.
#pragma once

#include <cuda_runtime_api.h>

namespace nibble::kernels::cuda {

// Throws OutOfMemory for cudaErrorMemoryAllocation, else DeviceError; both name `what`.
void check(cudaError_t status, const char* what);

// After a launch: throws DeviceError if it could not be made.
void check_launch(const char* kernel);

}  // namespace nibble::kernels::cuda
