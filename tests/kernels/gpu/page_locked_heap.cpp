#include "tests/kernels/gpu/page_locked_heap.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr std::size_t kArenaBytes = std::size_t{1} << 30;
constexpr std::size_t kMinBlock = 64;

// Blocks of powers of two, cut from the front of one mapping and kept in lists once they are free.
class Heap {
 public:
  void* allocate(std::size_t bytes) {
    const std::size_t block = std::bit_ceil(bytes + kMinBlock);
    const std::lock_guard lock(mutex_);
    if (arena_ == nullptr) map();
    std::byte*& list = free_[static_cast<std::size_t>(std::countr_zero(block))];
    std::byte* start = list;
    if (start != nullptr) {
      list = *reinterpret_cast<std::byte**>(start + kMinBlock);
    } else {
      if (arena_ == nullptr || block > kArenaBytes - used_) return nullptr;
      start = arena_ + used_;
      used_ += block;
    }
    *reinterpret_cast<std::size_t*>(start) = block;
    return start + kMinBlock;
  }
  void free(void* data) {
    std::byte* const start = static_cast<std::byte*>(data) - kMinBlock;
    const std::size_t block = *reinterpret_cast<std::size_t*>(start);
    const std::lock_guard lock(mutex_);
    std::byte*& list = free_[static_cast<std::size_t>(std::countr_zero(block))];
    *reinterpret_cast<std::byte**>(start + kMinBlock) = list;
    list = start;
  }
  cudaError_t lock_pages() { return cudaHostRegister(arena_, kArenaBytes, cudaHostRegisterDefault); }

 private:
  void map() {
    void* p = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) arena_ = static_cast<std::byte*>(p);
  }

  std::mutex mutex_;
  std::byte* arena_ = nullptr;
  std::size_t used_ = 0;
  std::array<std::byte*, 64> free_{};
};

Heap& heap() {
  static Heap instance;
  return instance;
}

}  // namespace

namespace nibble::kernels::testing {

bool lock_heap_pages() { return heap().lock_pages() == cudaSuccess; }

}  // namespace nibble::kernels::testing

void* operator new(std::size_t bytes) {
  void* const p = heap().allocate(bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept {
  if (p != nullptr) heap().free(p);
}
void operator delete(void* p, std::size_t /*bytes*/) noexcept { operator delete(p); }
