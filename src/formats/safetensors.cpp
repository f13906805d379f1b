#include "formats/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <tuple>

#include "core/quote.h"
#include "formats/json_text.h"

namespace nibble::formats {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

constexpr std::size_t kLengthBytes = 8;
// Objects and arrays of a legal header nest three deep.
constexpr std::size_t kMaxDepth = 4;

// Where in which header, for messages.
struct Place {
  std::string_view file;
  std::string_view tensor;

  [[nodiscard]] Error error(std::string_view field, std::string_view text) const {
    return bad_input(fmt::format("{}: tensor {}: {}: {}", file, quote(tensor), field, text));
  }
};

Result<std::uint64_t> read_unsigned(element value, const Place& place, std::string_view field) {
  std::uint64_t number = 0;
  if (value.get(number) != simdjson::SUCCESS) {
    return place.error(field, fmt::format("expected a non-negative integer, found {}", describe(value)));
  }
  return number;
}

Result<DType> read_dtype(element value, const Place& place) {
  std::string_view name;
  if (value.get(name) != simdjson::SUCCESS) {
    return place.error("dtype", fmt::format("expected a string, found {}", describe(value)));
  }
  const std::optional<DType> dtype = dtype_from_name(name);
  if (!dtype) return place.error("dtype", fmt::format("{} is not a safetensors dtype", quote(name)));
  return *dtype;
}

Result<std::vector<std::int64_t>> read_shape(element value, const Place& place) {
  array dims;
  if (value.get(dims) != simdjson::SUCCESS) {
    return place.error("shape", fmt::format("expected an array of integers, found {}", describe(value)));
  }
  std::vector<std::int64_t> shape;
  for (const element dim : dims) {
    if (shape.size() == kMaxTensorRank) {
      return place.error("shape", fmt::format("more than {} dimensions", kMaxTensorRank));
    }
    NIB_TRY(const std::uint64_t size, read_unsigned(dim, place, "shape"));
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return place.error("shape", fmt::format("dimension {} is too large", size));
    }
    shape.push_back(static_cast<std::int64_t>(size));
  }
  return shape;
}

Status read_offsets(element value, const Place& place, SafetensorsEntry& entry) {
  array offsets;
  if (value.get(offsets) != simdjson::SUCCESS || offsets.size() != 2) {
    return place.error("data_offsets", fmt::format("expected [begin, end], found {}", describe(value)));
  }
  NIB_TRY(entry.begin, read_unsigned(offsets.at(0).value_unsafe(), place, "data_offsets"));
  NIB_TRY(entry.end, read_unsigned(offsets.at(1).value_unsafe(), place, "data_offsets"));
  if (entry.end < entry.begin) {
    return place.error("data_offsets", fmt::format("end {} is before begin {}", entry.end, entry.begin));
  }
  return {};
}

// The one place that computes the bytes of a tensor, with overflow checks.
Result<std::uint64_t> tensor_bytes(const SafetensorsEntry& entry, const Place& place) {
  std::uint64_t elements = 1;
  std::uint64_t bits = 0;
  bool overflow = false;
  for (const std::int64_t dim : entry.shape) {
    overflow = overflow || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(dim), &elements);
  }
  overflow = overflow ||
             __builtin_mul_overflow(elements, static_cast<std::uint64_t>(dtype_bits(entry.dtype)), &bits);
  if (overflow) {
    return place.error("shape", fmt::format("[{}] of {} overflows 64 bits", fmt::join(entry.shape, ", "),
                                            dtype_name(entry.dtype)));
  }
  if (bits % 8 != 0) {
    return place.error("shape", fmt::format("[{}] of {} is not a whole number of bytes",
                                            fmt::join(entry.shape, ", "), dtype_name(entry.dtype)));
  }
  return bits / 8;
}

Status check_bytes(const SafetensorsEntry& entry, const Place& place) {
  NIB_TRY(const std::uint64_t bytes, tensor_bytes(entry, place));
  if (bytes == entry.end - entry.begin) return {};
  return place.error(
      "data_offsets",
      fmt::format("[{}, {}] spans {} bytes, but shape [{}] of {} needs {}", entry.begin, entry.end,
                  entry.end - entry.begin, fmt::join(entry.shape, ", "), dtype_name(entry.dtype), bytes));
}

Status read_field(std::string_view key, element value, const Place& place, SafetensorsEntry& entry) {
  if (key == "dtype") {
    NIB_TRY(entry.dtype, read_dtype(value, place));
    return {};
  }
  if (key == "shape") {
    NIB_TRY(entry.shape, read_shape(value, place));
    return {};
  }
  if (key == "data_offsets") return read_offsets(value, place, entry);
  return place.error(printable(key), "unknown field; expected dtype, shape, data_offsets");
}

Result<SafetensorsEntry> read_entry(std::string_view name, element value, std::string_view where) {
  const Place place{where, name};
  object fields;
  if (value.get(fields) != simdjson::SUCCESS) {
    return bad_input(
        fmt::format("{}: tensor {}: expected an object with dtype, shape, data_offsets, found {}", where,
                    quote(name), describe(value)));
  }
  SafetensorsEntry entry{.name = std::string(name)};
  std::vector<std::string_view> seen;
  for (const auto field : fields) {
    if (std::find(seen.begin(), seen.end(), field.key) != seen.end()) {
      return place.error(printable(field.key), "duplicate key");
    }
    seen.push_back(field.key);
    NIB_TRY_STATUS(read_field(field.key, field.value, place, entry));
  }
  for (const std::string_view needed : {"dtype", "shape", "data_offsets"}) {
    if (std::find(seen.begin(), seen.end(), needed) == seen.end()) return place.error(needed, "missing");
  }
  NIB_TRY_STATUS(check_bytes(entry, place));
  return entry;
}

Status check_metadata(element value, std::string_view where) {
  object fields;
  if (value.get(fields) != simdjson::SUCCESS) {
    return bad_input(fmt::format("{}: __metadata__: expected an object, found {}", where, describe(value)));
  }
  std::vector<std::string_view> keys;
  for (const auto field : fields) {
    if (!field.value.is_string()) {
      return bad_input(fmt::format("{}: __metadata__: {}: expected a string, found {}", where,
                                   quote(field.key), describe(field.value)));
    }
    keys.push_back(field.key);
  }
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice == keys.end()) return {};
  return bad_input(fmt::format("{}: __metadata__: duplicate key {}", where, quote(*twice)));
}

Result<std::vector<SafetensorsEntry>> read_entries(object header, std::string_view where) {
  std::vector<SafetensorsEntry> entries;
  bool metadata_seen = false;
  for (const auto field : header) {
    if (field.key == "__metadata__") {
      if (metadata_seen) return bad_input(fmt::format("{}: duplicate key \"__metadata__\"", where));
      metadata_seen = true;
      NIB_TRY_STATUS(check_metadata(field.value, where));
      continue;
    }
    if (entries.size() == kMaxTensors)
      return bad_input(fmt::format("{}: more than {} tensors", where, kMaxTensors));
    NIB_TRY(SafetensorsEntry entry, read_entry(field.key, field.value, where));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Status check_unique(const std::vector<SafetensorsEntry>& entries, std::string_view where) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return {};
  return bad_input(fmt::format("{}: tensor {}: duplicate key in the header", where, quote(*twice)));
}

Error cut_short(const SafetensorsLayout& layout, std::uint64_t file_bytes, std::string_view where) {
  const std::uint64_t present = file_bytes - layout.data_begin;
  const auto cut = std::find_if(layout.tensors.begin(), layout.tensors.end(),
                                [&](const SafetensorsEntry& entry) { return entry.end > present; });
  const std::uint64_t described = layout.tensors.back().end;
  std::uint64_t expected = 0;
  if (__builtin_add_overflow(layout.data_begin, described, &expected)) {
    expected = std::numeric_limits<std::uint64_t>::max();
  }
  return bad_input(
      fmt::format("{}: {} bytes; the header describes {}: the file is cut short by {} bytes, in tensor {}; "
                  "download it again",
                  where, file_bytes, expected, expected - file_bytes, quote(cut->name)));
}

// Tensors (sorted by offsets) must follow each other without hole or overlap and end with the file.
Status check_cover(const SafetensorsLayout& layout, std::uint64_t file_bytes, std::string_view where) {
  std::uint64_t next = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : layout.tensors) {
    if (entry.begin != next) {
      const std::string after =
          previous == nullptr ? "the data begins" : fmt::format("{} ends", quote(previous->name));
      return Place{where, entry.name}.error(
          "data_offsets", fmt::format("begins at {} but {} at {} ({})", entry.begin, after, next,
                                      entry.begin > next ? "a hole between tensors" : "tensors overlap"));
    }
    next = entry.end;
    previous = &entry;
  }
  const std::uint64_t data_bytes = file_bytes - layout.data_begin;
  if (next > data_bytes) return cut_short(layout, file_bytes, where);
  if (next == data_bytes) return {};
  const std::uint64_t extra = data_bytes - next;
  return bad_input(fmt::format("{}: {} bytes; the header describes {}: {} trailing byte{}", where, file_bytes,
                               layout.data_begin + next, extra, extra == 1 ? "" : "s"));
}

// Length of the JSON header, checked against the limit and the file.
Result<std::uint64_t> read_header_length(std::span<const std::byte> file, std::string_view where) {
  if (file.size() < kLengthBytes) {
    return bad_input(
        fmt::format("{}: {} bytes; a safetensors file has at least {}: the file is cut short or is not "
                    "a safetensors file",
                    where, file.size(), kLengthBytes + 2));
  }
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(file[i]);
  if (length > kMaxHeaderBytes) {
    return bad_input(
        fmt::format("{}: header length {} is over the limit of {} bytes; is this a safetensors file?", where,
                    length, kMaxHeaderBytes));
  }
  if (length > file.size() - kLengthBytes) {
    return bad_input(fmt::format("{}: {} bytes, but the header alone needs {}: the file is cut short", where,
                                 file.size(), length + kLengthBytes));
  }
  return length;
}

}  // namespace

Result<SafetensorsLayout> parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  NIB_TRY(const std::uint64_t length, read_header_length(file, where));
  JsonDocument document(kMaxDepth);
  NIB_TRY(const object header,
          document.parse_object(file.subspan(kLengthBytes, length), fmt::format("{}: header", where)));
  SafetensorsLayout layout{.data_begin = kLengthBytes + length};
  NIB_TRY(layout.tensors, read_entries(header, where));
  NIB_TRY_STATUS(check_unique(layout.tensors, where));
  std::sort(layout.tensors.begin(), layout.tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  NIB_TRY_STATUS(check_cover(layout, file.size(), where));
  return layout;
}

}  // namespace nibble::formats
