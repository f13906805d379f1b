// model.safetensors.index.json: which shard holds which tensor. Informative only: the shards' headers
// decide (converters leave stale indexes behind); see checkpoint.cpp for the cross-check.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/result.h"

namespace nibble::formats {

inline constexpr std::size_t kMaxIndexBytes = std::size_t{64} << 20;

struct ShardIndex {
  std::vector<std::string> shards;                             // file names, sorted, each once
  std::vector<std::pair<std::string, std::size_t>> placement;  // tensor, index into shards; sorted
  std::optional<std::uint64_t> total_size;                     // metadata.total_size, if it is one

  // Index into shards of the file that should hold `tensor`.
  [[nodiscard]] std::optional<std::size_t> shard_of(std::string_view tensor) const;
};

// Shard names must be plain file names ending in .safetensors: nothing outside the directory can be
// named. All errors are bad_input and name the tensor or field.
Result<ShardIndex> parse_shard_index(std::string_view json, std::string_view where);

}  // namespace nibble::formats
