#include "quant/quant_format.h"

#include <array>

namespace nibble::quant {
namespace {

using enum WeightFormat;

// In the order of the enum.
// In the order of the enum: format, name, bits, codes per byte, group_k, group_n, any_group.
constexpr std::array<FormatRow, kNumFormats> kFormats = {{
    {f32, "f32", 32, 1, 0, 1, false},
    {f16, "f16", 16, 1, 0, 1, false},
    {bf16, "bf16", 16, 1, 0, 1, false},
    {fp8, "fp8", 8, 1, 128, 128, true},
    {mxfp4, "mxfp4", 4, 2, 32, 1, false},
    {nvfp4, "nvfp4", 4, 2, 16, 1, false},
    {int8, "int8", 8, 1, 128, 1, true},
    {int4, "int4", 4, 2, 128, 1, true},
}};

constexpr bool in_enum_order() {
  for (std::size_t i = 0; i < kFormats.size(); ++i) {
    if (static_cast<std::size_t>(kFormats[i].format) != i) return false;
  }
  return true;
}
static_assert(in_enum_order(), "format_row indexes the table by the enum");

}  // namespace

std::span<const FormatRow> formats() noexcept { return kFormats; }

const FormatRow& format_row(WeightFormat format) noexcept {
  return kFormats[static_cast<std::size_t>(format)];
}

std::optional<WeightFormat> format_from_name(std::string_view name) noexcept {
  for (const FormatRow& row : kFormats) {
    if (row.name == name) return row.format;
  }
  return std::nullopt;
}

}  // namespace nibble::quant
