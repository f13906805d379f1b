// MemorySpace: where a backend's tensors live, and the way in and out. Pointers into a space other than
// the host's must not be read or written by the host.
#pragma once

#include <cstddef>
#include <span>

#include "core/buffer.h"

namespace nibble {

class MemorySpace {
 public:
  virtual ~MemorySpace() = default;

  // The host can read and write it as its own.
  [[nodiscard]] virtual bool is_host() const noexcept = 0;

  // Zero-filled. Throws std::bad_alloc.
  virtual Buffer allocate(std::size_t bytes) = 0;
  // Host memory from which transfers are fast. Zero-filled. Throws std::bad_alloc.
  virtual Buffer allocate_staging(std::size_t bytes) = 0;

  // Copies into the space, before everything that is launched later. `src` must stay as it is until the
  // next download, or the end of the next upload from the same memory.
  virtual void upload(std::byte* dst, std::span<const std::byte> src) = 0;

  // Copies out of it, after everything that was launched before; waits. Throws DeviceError.
  virtual void download(std::span<std::byte> dst, const std::byte* src) = 0;

  // `host` itself, or a copy of it here.
  Buffer place(Buffer host);
};

// Ordinary memory of this process.
MemorySpace& host_space();

}  // namespace nibble
