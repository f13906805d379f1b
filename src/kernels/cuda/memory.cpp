#include "kernels/cuda/memory.h"

#include <cstring>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

// Errors of freeing are errors of earlier launches, which are reported where those are waited for.
void free_device(const void* data) { static_cast<void>(cudaFree(const_cast<void*>(data))); }
void free_pinned(const void* data) { static_cast<void>(cudaFreeHost(const_cast<void*>(data))); }

}  // namespace

Buffer allocate_uninitialised(std::size_t bytes) {
  if (bytes == 0) return {};
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc");
  return {static_cast<std::byte*>(data), bytes, std::shared_ptr<const void>(data, free_device)};
}

Buffer allocate_pinned(std::size_t bytes) {
  if (bytes == 0) return {};
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "cudaMallocHost");
  return {static_cast<std::byte*>(data), bytes, std::shared_ptr<const void>(data, free_pinned)};
}

Buffer CudaMemory::allocate(std::size_t bytes) {
  Buffer buffer = allocate_uninitialised(bytes);
  if (bytes > 0) check(cudaMemsetAsync(buffer.data(), 0, bytes, stream_), "cudaMemsetAsync");
  return buffer;
}

Buffer CudaMemory::allocate_staging(std::size_t bytes) {
  Buffer buffer = allocate_pinned(bytes);
  if (bytes > 0) std::memset(buffer.data(), 0, bytes);
  return buffer;
}

void CudaMemory::upload(std::byte* dst, std::span<const std::byte> src) {
  if (src.empty()) return;
  check(cudaMemcpyAsync(dst, src.data(), src.size(), cudaMemcpyHostToDevice, stream_), "copy to the device");
}

void CudaMemory::download(std::span<std::byte> dst, const std::byte* src) {
  if (!dst.empty()) {
    check(cudaMemcpyAsync(dst.data(), src, dst.size(), cudaMemcpyDeviceToHost, stream_),
          "copy from the device");
  }
  check(cudaStreamSynchronize(stream_), "waiting for the device");
}

}  // namespace nibble::kernels::cuda
