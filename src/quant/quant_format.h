// The number formats weights may have: one row each, used by every layer that must know a format's
// name, width or scale layout. How config.json names a format is the business of formats/.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/dtype.h"

namespace nibble::quant {

enum class WeightFormat : std::uint8_t { f32, f16, bf16, fp8_block, mxfp4, nvfp4 };

struct FormatRow {
  WeightFormat format;
  std::string_view name;     // "mxfp4": the name in messages, flags and tables
  int bits;                  // of one code
  int codes_per_byte_group;  // consecutive k stored together in one byte (1 or 2)
  int group_k;               // weights along k that share a scale; 0 = no scales
  int group_n;               // rows that share a scale (128 for fp8_block, else 1)
};

std::span<const FormatRow> formats() noexcept;
const FormatRow& format_row(WeightFormat format) noexcept;
inline std::string_view format_name(WeightFormat format) noexcept { return format_row(format).name; }
std::optional<WeightFormat> format_from_name(std::string_view name) noexcept;

}  // namespace nibble::quant
