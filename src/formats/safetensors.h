// The safetensors container: 8 bytes header length N (u64, little-endian), N bytes of JSON, then the
// tensors' bytes. https://github.com/huggingface/safetensors (format section of its README).
//
// Accepts what the reference implementation accepts and nothing else, with these limits: header <=
// 100 MB, <= 2 million tensors, rank <= 8. Stricter than the reference in two points: duplicate keys
// and unknown fields are refused. Values are never looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "nibble/result.h"

namespace nibble::formats {

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr std::size_t kMaxTensors = 2'000'000;
inline constexpr std::size_t kMaxTensorRank = 8;

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::u8;
  std::vector<std::int64_t> shape;  // empty = one element
  std::uint64_t begin = 0;          // byte offsets from data_begin
  std::uint64_t end = 0;
};

struct SafetensorsLayout {
  std::uint64_t data_begin = 0;           // offset of the first tensor byte in the file
  std::vector<SafetensorsEntry> tensors;  // in the order of their bytes; these cover the file exactly
};

// Validates the header of a whole file against its size; touches only the header's bytes. `where` is
// the file name used in messages. All errors are bad_input and name the tensor and field.
Result<SafetensorsLayout> parse_safetensors(std::span<const std::byte> file, std::string_view where);

}  // namespace nibble::formats
