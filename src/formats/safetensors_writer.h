// Writing one safetensors file, tensor by tensor, in any order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "formats/output_file.h"
#include "nibble/result.h"

namespace nibble::formats {

struct TensorHeader {
  std::string name;
  DType dtype = DType::u8;
  std::vector<std::int64_t> shape;  // empty = one element

  [[nodiscard]] std::uint64_t num_bytes() const noexcept;
};

class SafetensorsWriter {
 public:
  // Lays the file out as the reference writer does: header padded to 8 bytes, tensors by descending width,
  // then by name, so that each is naturally aligned. `tensors`: names differ. Errors as OutputFile's.
  static Result<SafetensorsWriter> create(const std::filesystem::path& path,
                                          std::vector<TensorHeader> tensors);

  // All bytes of tensors[index] of create; each tensor once. Not from several threads.
  Status write(std::size_t index, std::span<const std::byte> bytes);

  // Every tensor is written: syncs the file and gives it its name. Without this nothing is left.
  Status finish();

  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return file_bytes_; }

 private:
  SafetensorsWriter(OutputFile file, std::vector<TensorHeader> tensors, std::vector<std::uint64_t> offsets,
                    std::uint64_t file_bytes);

  OutputFile file_;
  std::vector<TensorHeader> tensors_;
  std::vector<std::uint64_t> offsets_;  // in the file
  std::vector<bool> written_;
  std::uint64_t file_bytes_;
};

}  // namespace nibble::formats
