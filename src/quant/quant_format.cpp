#include "quant/quant_format.h"

#include <array>

namespace nibble::quant {
namespace {

using enum WeightFormat;

// In the order of the enum.
constexpr std::array kFormats = {
    FormatRow{
        .format = f32, .name = "f32", .bits = 32, .codes_per_byte_group = 1, .group_k = 0, .group_n = 1},
    FormatRow{
        .format = f16, .name = "f16", .bits = 16, .codes_per_byte_group = 1, .group_k = 0, .group_n = 1},
    FormatRow{
        .format = bf16, .name = "bf16", .bits = 16, .codes_per_byte_group = 1, .group_k = 0, .group_n = 1},
    FormatRow{.format = fp8_block,
              .name = "fp8_block",
              .bits = 8,
              .codes_per_byte_group = 1,
              .group_k = 128,
              .group_n = 128},
    FormatRow{
        .format = mxfp4, .name = "mxfp4", .bits = 4, .codes_per_byte_group = 2, .group_k = 32, .group_n = 1},
    FormatRow{
        .format = nvfp4, .name = "nvfp4", .bits = 4, .codes_per_byte_group = 2, .group_k = 16, .group_n = 1},
};

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
