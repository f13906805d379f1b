#include "kernels/cuda/memory.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "core/out_of_memory.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/failing.h"

namespace nibble::kernels::cuda {
namespace {

// Errors of freeing are errors of earlier launches, which are reported where those are waited for.
void free_device(const void* data) { static_cast<void>(cudaFree(const_cast<void*>(data))); }
void free_pinned(const void* data) { static_cast<void>(cudaFreeHost(const_cast<void*>(data))); }

// Allocations left until one fails; negative = never.
std::atomic<std::int64_t> allocations_left{-1};

// Allocates `bytes` > 0 by `allocate`; `kind` names the memory.
template <class Allocate>
void* allocate_or_throw(std::size_t bytes, const char* kind, Allocate&& allocate) {
  void* data = nullptr;
  const cudaError_t status = allocation_fails() ? cudaErrorMemoryAllocation : allocate(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // an error that was reported must not be found again
    throw OutOfMemory(fmt::format("no {} for {} bytes, {}", kind, bytes, describe_free_memory()));
  }
  check(status, kind);
  return data;
}

}  // namespace

void fail_allocation(std::int64_t n) noexcept { allocations_left = n; }
bool allocation_will_fail() noexcept { return allocations_left >= 0; }
bool allocation_fails() noexcept {
  return allocations_left.load(std::memory_order_relaxed) >= 0 && allocations_left.fetch_sub(1) == 0;
}

std::string describe_free_memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return "how much is free is not known";
  }
  return fmt::format("{} of {} bytes of the GPU are free", free, total);
}

Buffer allocate_uninitialised(std::size_t bytes) {
  if (bytes == 0) return {};
  void* const data = allocate_or_throw(bytes, "memory of the GPU",
                                       [](void** to, std::size_t size) { return cudaMalloc(to, size); });
  return {static_cast<std::byte*>(data), bytes, std::shared_ptr<const void>(data, free_device)};
}

Buffer allocate_pinned(std::size_t bytes) {
  if (bytes == 0) return {};
  void* const data = allocate_or_throw(bytes, "page-locked memory of the host",
                                       [](void** to, std::size_t size) { return cudaMallocHost(to, size); });
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
