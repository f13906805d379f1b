// A file that is complete or not there: written under NAME.partial, synced, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "nibble/result.h"

namespace nibble::formats {

class OutputFile {
 public:
  // Creates NAME.partial (over one that an interrupted run left) with room for `bytes`, so that a full
  // disk shows before the work is done. bad_input if the path cannot be written, runtime if the room is
  // not there; messages name the path and the system's reason.
  static Result<OutputFile> create(const std::filesystem::path& path, std::uint64_t bytes);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();  // removes NAME.partial unless finished

  // Writes at this offset; any order, not from several threads.
  Status write(std::uint64_t offset, std::span<const std::byte> bytes);

  // Syncs and renames. Nothing is at `path` before; everything after.
  Status finish();

 private:
  OutputFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  [[nodiscard]] std::filesystem::path partial_path() const;
  [[nodiscard]] Error failed(std::string_view what, int error) const;
  void discard() noexcept;

  std::filesystem::path path_;
  int fd_ = -1;
};

// The whole of a small file.
Status write_file_atomically(const std::filesystem::path& path, std::string_view text);

// The bytes of `from`, which may be a symbolic link, under another name.
Status copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace nibble::formats
