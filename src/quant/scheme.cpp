#include "quant/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

namespace nibble::quant {
namespace {

using enum ActivationFormat;

constexpr std::array kSchemes = {
    SchemeRow{"bf16", "w16a16 bfloat16", {WeightFormat::bf16, none}, "weights as bfloat16"},
    SchemeRow{"f16", "fp16 float16", {WeightFormat::f16, none}, "weights as half precision"},
    SchemeRow{"f32", "fp32 float32", {WeightFormat::f32, none}, "weights as float32"},
    SchemeRow{"fp8", "fp8_e4m3 e4m3 fp8_w8a16", {WeightFormat::fp8, none}, "E4M3, 128 x 128 blocks"},
    SchemeRow{"fp8_w8a8",
              "fp8_e4m3_w8a8",
              {WeightFormat::fp8, ActivationFormat::fp8},
              "the same; inputs in E4M3 groups of 128"},
    SchemeRow{"int8", "i8 int8_w8a16 w8a16", {WeightFormat::int8, none, -1}, "a scale per row"},
    SchemeRow{"int8_w8a8",
              "w8a8",
              {WeightFormat::int8, ActivationFormat::int8, -1},
              "the same; inputs in INT8, a scale per token"},
    SchemeRow{"int4", "i4 int4_w4a16 w4a16", {WeightFormat::int4, none}, "groups of 128"},
    SchemeRow{"int4_w4a8",
              "w4a8",
              {WeightFormat::int4, ActivationFormat::int8},
              "the same; inputs in INT8, a scale per token"},
    SchemeRow{"mxfp4", "mxfp4_w4a16", {WeightFormat::mxfp4, none}, "E2M1, powers of two per 32"},
    SchemeRow{"mxfp4_w4a8",
              "",
              {WeightFormat::mxfp4, ActivationFormat::fp8},
              "the same; inputs in E4M3 groups of 128"},
    SchemeRow{"nvfp4", "nvfp4_w4a16", {WeightFormat::nvfp4, none}, "E2M1, E4M3 scales per 16"},
    SchemeRow{"nvfp4_w4a8",
              "",
              {WeightFormat::nvfp4, ActivationFormat::fp8},
              "the same; inputs in E4M3 groups of 128"},
};

bool has_alias(const SchemeRow& row, std::string_view name) {
  for (std::string_view rest = row.aliases; !rest.empty();) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    if (rest.substr(0, end) == name) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

}  // namespace

std::string_view activation_name(ActivationFormat format) noexcept {
  switch (format) {
    case none: return "a16";
    case fp8: return "fp8";
    case int8: return "int8";
  }
  return "a16";
}

Grouping Scheme::grouping(std::int64_t k) const noexcept {
  return {.group_k = group_k < 0 && k != format_row(weights).group_k ? k : group_k < 0 ? 0 : group_k};
}

std::span<const SchemeRow> schemes() noexcept { return kSchemes; }

Result<Scheme> find_scheme(std::string_view name) {
  for (const SchemeRow& row : kSchemes) {
    if (row.name == name || has_alias(row, name)) return row.scheme;
  }
  std::string known;
  for (const SchemeRow& row : kSchemes) known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  return unsupported(fmt::format("quantisation scheme '{}' is not supported; supported: {}", name, known));
}

std::string_view scheme_name(const Scheme& scheme) noexcept {
  for (const SchemeRow& row : kSchemes) {
    if (row.scheme.weights == scheme.weights && row.scheme.activations == scheme.activations) return row.name;
  }
  return format_name(scheme.weights);
}

}  // namespace nibble::quant
