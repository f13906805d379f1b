#include "core/memory_space.h"

#include <cstring>

namespace nibble {
namespace {

class HostSpace final : public MemorySpace {
 public:
  [[nodiscard]] bool is_host() const noexcept override { return true; }
  Buffer allocate(std::size_t bytes) override { return Buffer(bytes); }
  Buffer allocate_staging(std::size_t bytes) override { return Buffer(bytes); }
  void upload(std::byte* dst, std::span<const std::byte> src) override {
    if (!src.empty()) std::memcpy(dst, src.data(), src.size());
  }
  void download(std::span<std::byte> dst, const std::byte* src) override {
    if (!dst.empty()) std::memcpy(dst.data(), src, dst.size());
  }
};

}  // namespace

Buffer MemorySpace::place(Buffer host) {
  if (is_host()) return host;
  Buffer here = allocate(host.size());
  Buffer staging = allocate_staging(host.size());
  if (!host.empty()) std::memcpy(staging.data(), host.data(), host.size());
  upload(here.data(), staging.bytes());
  // Reading one byte back waits for the copy, so that the staging memory may go.
  std::byte last{};
  if (!host.empty()) download({&last, 1}, here.data() + host.size() - 1);
  return here;
}

MemorySpace& host_space() {
  static HostSpace space;
  return space;
}

}  // namespace nibble
