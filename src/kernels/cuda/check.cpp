#include "kernels/cuda/check.h"

#include <fmt/format.h>

#include "core/check.h"
#include "core/out_of_memory.h"
#include "kernels/cuda/memory.h"

namespace nibble::kernels::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // an error that was reported must not be found again
  if (status == cudaErrorMemoryAllocation) {
    throw OutOfMemory(fmt::format("CUDA: {}: out of memory, {}", what, describe_free_memory()));
  }
  throw DeviceError(
      fmt::format("CUDA: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace nibble::kernels::cuda
