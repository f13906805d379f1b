// Buffer: move-only owner of bytes: host memory aligned for any vector load, with huge pages where the
// size makes them pay; or memory of another MemorySpace, which its owner frees.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace nibble {

class Buffer {
 public:
  Buffer() = default;
  // Zero-filled. Throws std::bad_alloc.
  explicit Buffer(std::size_t bytes);
  // `owner` keeps the memory for as long as any buffer shares it.
  Buffer(std::byte* data, std::size_t bytes, std::shared_ptr<const void> owner)
      : data_(data), bytes_(bytes), owner_(std::move(owner)) {}
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        owner_(std::move(other.owner_)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(owner_, other.owner_);
    return *this;
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }
  [[nodiscard]] bool empty() const noexcept { return bytes_ == 0; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, bytes_}; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::shared_ptr<const void> owner_;  // of memory that is not this buffer's alone
};

// Cuts buffers that are too small for huge pages of their own from one allocation that has them: their
// memory is cleared by whoever first writes to it, in 2 MiB pieces. It lives as long as any of them.
class BufferSlab {
 public:
  // What a buffer takes of a slab: 0 if it is large enough to stand alone.
  static std::size_t share(std::size_t bytes) noexcept;

  // Room for buffers whose shares add up to `bytes`. Throws std::bad_alloc.
  explicit BufferSlab(std::size_t bytes) : memory_(std::make_shared<const Buffer>(bytes)) {}

  // Zero-filled, from the slab while it has room, else on its own. Throws std::bad_alloc.
  Buffer take(std::size_t bytes);

 private:
  std::shared_ptr<const Buffer> memory_;
  std::size_t used_ = 0;
};

}  // namespace nibble
