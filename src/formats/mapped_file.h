// Files of a checkpoint on disk: large ones mapped, small ones read whole under a size limit.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "nibble/result.h"

namespace nibble::formats {

// A regular file mapped read-only; move-only owner of the mapping. The bytes are checked once, when
// the checkpoint is opened: a file that is truncated by somebody else afterwards makes later reads of
// the lost pages fail with SIGBUS, as with every mapped file. Replacing a file by renaming a new one
// over it is safe, the mapping keeps the old one.
class MappedFile {
 public:
  // bad_input if there is no such regular file; runtime if the system refuses to map it.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}

  const std::byte* data_ = nullptr;  // null for an empty file
  std::size_t size_ = 0;
};

// Advice to the kernel about mapped bytes, which may start anywhere: about to be read / no longer
// needed (the pages leave our resident set; reading them again is slow, never wrong).
void advise_will_need(std::span<const std::byte> bytes) noexcept;
void advise_done(std::span<const std::byte> bytes) noexcept;

// The whole of a small regular file. bad_input if it is missing or larger than max_bytes.
Result<std::string> read_small_file(const std::filesystem::path& path, std::size_t max_bytes);

}  // namespace nibble::formats
