// Any bytes as model.safetensors.index.json: an error, or shards that are plain file names and a sorted
// placement into them.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "formats/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto index = nibble::formats::parse_shard_index(text, "fuzz");
  if (!index.ok()) {
    if (index.error().code != nibble::ErrorCode::bad_input || index.error().message.empty()) std::abort();
    return 0;
  }
  for (const auto& shard : index->shards) {
    if (shard.find('/') != std::string::npos || shard.find("..") != std::string::npos) std::abort();
  }
  for (const auto& [tensor, shard] : index->placement) {
    if (shard >= index->shards.size() || index->shard_of(tensor) != shard) std::abort();
  }
  return 0;
}
