// Memory of one GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "core/memory_space.h"

namespace nibble::kernels::cuda {

class CudaMemory final : public MemorySpace {
 public:
  // Copies are ordered with what is launched on `stream`, which must outlive this.
  explicit CudaMemory(cudaStream_t stream) : stream_(stream) {}

  [[nodiscard]] bool is_host() const noexcept override { return false; }
  Buffer allocate(std::size_t bytes) override;
  Buffer allocate_staging(std::size_t bytes) override;  // page-locked
  void upload(std::byte* dst, std::span<const std::byte> src) override;
  void download(std::span<std::byte> dst, const std::byte* src) override;

 private:
  cudaStream_t stream_;
};

// Device memory that is not cleared. Throws OutOfMemory.
Buffer allocate_uninitialised(std::size_t bytes);
// Page-locked host memory. Throws OutOfMemory.
Buffer allocate_pinned(std::size_t bytes);

// "123 of 456 bytes of the GPU are free".
std::string describe_free_memory();

}  // namespace nibble::kernels::cuda
