#include "core/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace nibble {
namespace {

constexpr std::size_t kSmallAlign = 64;
// From here on memory comes straight from the kernel: it is zero already, is returned at once when
// freed, and can use 2 MiB pages (fewer TLB misses when weights are streamed).
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes < kHugePage) {
    void* p = std::aligned_alloc(kSmallAlign, round_up(bytes, kSmallAlign));
    if (p == nullptr) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    data_ = static_cast<std::byte*>(p);
    return;
  }
  void* p =
      mmap(nullptr, round_up(bytes, kHugePage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  madvise(p, round_up(bytes, kHugePage), MADV_HUGEPAGE);  // advice only: failure changes nothing but speed
  data_ = static_cast<std::byte*>(p);
}

Buffer::~Buffer() {
  if (data_ == nullptr || owner_ != nullptr) return;
  if (bytes_ < kHugePage) {
    std::free(data_);
  } else {
    munmap(data_, round_up(bytes_, kHugePage));
  }
}

std::size_t BufferSlab::share(std::size_t bytes) noexcept {
  return bytes < kHugePage ? round_up(bytes, kSmallAlign) : 0;
}

Buffer BufferSlab::take(std::size_t bytes) {
  const std::size_t taken = share(bytes);
  if (taken == 0 || taken > memory_->size() - used_) return Buffer(bytes);
  std::byte* const data = memory_->data() + used_;
  used_ += taken;
  return {data, bytes, memory_};
}

}  // namespace nibble
