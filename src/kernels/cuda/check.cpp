#include "kernels/cuda/check.h"

#include <fmt/format.h>

#include <new>

#include "core/check.h"

namespace nibble::kernels::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // an error that was reported must not be found again
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw DeviceError(
      fmt::format("CUDA: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace nibble::kernels::cuda
