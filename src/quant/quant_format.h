// The number formats weights may have: one row each, used by every layer that must know a format's
// name, width or scale layout. How config.json names a format is the business of formats/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/dtype.h"

namespace nibble::quant {

enum class WeightFormat : std::uint8_t { f32, f16, bf16, fp8, mxfp4, nvfp4, int8, int4 };
inline constexpr std::size_t kNumFormats = 8;

struct FormatRow {
  WeightFormat format;
  std::string_view name;     // "mxfp4": the name in messages, flags and tables
  int bits;                  // of one code
  int codes_per_byte_group;  // consecutive k stored together in one byte (1 or 2)
  int group_k;     // weights along k that share a scale unless Grouping says otherwise; 0 = no scales
  int group_n;     // rows that share a scale in checkpoints (128 for fp8, else 1)
  bool any_group;  // whether Grouping::group_k may differ from group_k
};

// How a matrix of a scaled format groups its weights along k.
struct Grouping {
  // Consecutive k that share a scale; 0 = the format's own (FormatRow::group_k). Otherwise a multiple
  // of 32, or k itself (one scale per row). The last group may be short.
  std::int64_t group_k = 0;
  bool zero_points = false;  // int8, int4: w = (code - zero) * scale with a zero per row and group
  bool act_order = false;    // int8, int4: weight k belongs to group g_idx[k] instead of k / group_k

  friend bool operator==(const Grouping&, const Grouping&) = default;
};

std::span<const FormatRow> formats() noexcept;
const FormatRow& format_row(WeightFormat format) noexcept;
inline std::string_view format_name(WeightFormat format) noexcept { return format_row(format).name; }
std::optional<WeightFormat> format_from_name(std::string_view name) noexcept;

}  // namespace nibble::quant
