// Any bytes as a safetensors file: an error, or tensors that tile the file exactly.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto layout = nibble::formats::parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
  if (!layout.ok()) {
    if (layout.error().code != nibble::ErrorCode::bad_input || layout.error().message.empty()) std::abort();
    return 0;
  }
  std::uint64_t next = layout->data_begin;
  for (const auto& entry : layout->tensors) {
    if (layout->data_begin + entry.begin != next || entry.end < entry.begin) std::abort();
    next = layout->data_begin + entry.end;
    if (next > size) std::abort();
  }
  if (next != size) std::abort();
  return 0;
}
