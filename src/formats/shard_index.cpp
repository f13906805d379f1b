#include "formats/shard_index.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <span>

#include "core/quote.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"

namespace nibble::formats {
namespace {

using simdjson::dom::element;
using simdjson::dom::object;

constexpr std::size_t kMaxDepth = 16;  // metadata is free-form
constexpr std::size_t kMaxNameBytes = 255;

using NamedShard = std::pair<std::string_view, std::string_view>;  // tensor, file

bool is_plain_file_name(std::string_view name) {
  const bool separators = name.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos;
  return !separators && !name.starts_with('.') && name.find("..") == std::string_view::npos &&
         name.size() <= kMaxNameBytes;
}

Status check_shard_name(std::string_view tensor, std::string_view file, std::string_view where) {
  const std::string field = fmt::format("{}: weight_map: {}", where, quote(tensor));
  if (!is_plain_file_name(file)) {
    return bad_input(
        fmt::format("{}: {} is not a plain file name; shards lie beside the index", field, quote(file)));
  }
  if (!file.ends_with(".safetensors")) {
    return bad_input(fmt::format("{}: expected a .safetensors file, found {}", field, quote(file)));
  }
  return {};
}

Result<std::vector<NamedShard>> read_weight_map(object map, std::string_view where) {
  std::vector<NamedShard> entries;
  for (const auto field : map) {
    std::string_view file;
    if (field.value.get(file) != simdjson::SUCCESS) {
      return bad_input(fmt::format("{}: weight_map: {}: expected a file name, found {}", where,
                                   quote(field.key), describe(field.value)));
    }
    if (entries.size() == kMaxTensors) {
      return bad_input(fmt::format("{}: weight_map: more than {} tensors", where, kMaxTensors));
    }
    NIB_TRY_STATUS(check_shard_name(field.key, file, where));
    entries.emplace_back(field.key, file);
  }
  if (entries.empty()) return bad_input(fmt::format("{}: weight_map: empty; expected tensor names", where));
  std::sort(entries.begin(), entries.end());
  const auto twice =
      std::adjacent_find(entries.begin(), entries.end(),
                         [](const NamedShard& a, const NamedShard& b) { return a.first == b.first; });
  if (twice == entries.end()) return entries;
  return bad_input(fmt::format("{}: weight_map: duplicate key {}", where, quote(twice->first)));
}

// The top-level values we read, each at most once.
struct Fields {
  std::optional<element> weight_map;
  std::optional<element> metadata;
};

Result<Fields> read_fields(object root, std::string_view where) {
  Fields fields;
  for (const auto field : root) {
    std::optional<element>* slot = field.key == "weight_map" ? &fields.weight_map
                                   : field.key == "metadata" ? &fields.metadata
                                                             : nullptr;
    if (slot == nullptr) continue;
    if (slot->has_value()) return bad_input(fmt::format("{}: duplicate key {}", where, quote(field.key)));
    *slot = field.value;
  }
  if (!fields.weight_map) return bad_input(fmt::format("{}: weight_map: missing", where));
  return fields;
}

// Informative, and some converters write nothing or a float: anything but an integer is no value.
Result<std::optional<std::uint64_t>> read_total_size(const Fields& fields, std::string_view where) {
  if (!fields.metadata || fields.metadata->is_null()) return std::optional<std::uint64_t>();
  object metadata;
  if (fields.metadata->get(metadata) != simdjson::SUCCESS) {
    return bad_input(
        fmt::format("{}: metadata: expected an object, found {}", where, describe(*fields.metadata)));
  }
  std::uint64_t bytes = 0;
  if (metadata["total_size"].get(bytes) != simdjson::SUCCESS) return std::optional<std::uint64_t>();
  return std::optional(bytes);
}

ShardIndex build_index(const std::vector<NamedShard>& entries) {
  ShardIndex index;
  for (const auto& [tensor, file] : entries) index.shards.emplace_back(file);
  std::sort(index.shards.begin(), index.shards.end());
  index.shards.erase(std::unique(index.shards.begin(), index.shards.end()), index.shards.end());
  for (const auto& [tensor, file] : entries) {
    const auto shard = std::lower_bound(index.shards.begin(), index.shards.end(), file);
    index.placement.emplace_back(tensor, static_cast<std::size_t>(shard - index.shards.begin()));
  }
  return index;
}

}  // namespace

std::optional<std::size_t> ShardIndex::shard_of(std::string_view tensor) const {
  const auto it =
      std::lower_bound(placement.begin(), placement.end(), tensor,
                       [](const auto& entry, std::string_view name) { return entry.first < name; });
  if (it == placement.end() || it->first != tensor) return std::nullopt;
  return it->second;
}

Result<ShardIndex> parse_shard_index(std::string_view json, std::string_view where) {
  JsonDocument document(kMaxDepth);
  NIB_TRY(const object root, document.parse_object(std::as_bytes(std::span(json)), where));
  NIB_TRY(const Fields fields, read_fields(root, where));
  object map;
  if (fields.weight_map->get(map) != simdjson::SUCCESS) {
    return bad_input(fmt::format("{}: weight_map: expected an object of tensor to file name, found {}", where,
                                 describe(*fields.weight_map)));
  }
  NIB_TRY(const std::vector<NamedShard> entries, read_weight_map(map, where));
  ShardIndex index = build_index(entries);
  NIB_TRY(index.total_size, read_total_size(fields, where));
  return index;
}

}  // namespace nibble::formats
