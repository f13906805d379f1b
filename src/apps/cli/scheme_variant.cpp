#include "cli/scheme_variant.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/options.h"
#include "nibble/checkpoint.h"

namespace nibble::cli {

namespace {

constexpr std::array kCacheDtypes{"fp8_e4m3", "fp8_e5m2"};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

Status check_scheme(std::string_view name) {
  std::vector<std::string> known{"auto"};
  for (const SchemeInfo& scheme : quantization_schemes()) {
    known.push_back(scheme.name);
    known.insert(known.end(), scheme.aliases.begin(), scheme.aliases.end());
  }
  if (std::find(known.begin(), known.end(), name) != known.end()) return {};
  std::string list;
  for (const SchemeInfo& scheme : quantization_schemes()) list += ", " + scheme.name;
  const auto near = closest(name, known);
  return bad_input(fmt::format("unknown scheme \"{}\" (--schemes); {}expected auto{}", name,
                               near ? fmt::format("did you mean {}? ", *near) : std::string(), list));
}

Status apply_modifier(SchemeVariant& variant, std::string_view modifier) {
  if (modifier == "plain") {
    variant.plain_scales = true;
    return {};
  }
  const std::size_t equals = modifier.find('=');
  const std::string_view key = modifier.substr(0, equals);
  const std::string_view value = equals == std::string_view::npos ? "" : modifier.substr(equals + 1);
  std::string* target = key == "attn"      ? &variant.attn
                        : key == "mlp"     ? &variant.mlp
                        : key == "experts" ? &variant.experts
                        : key == "other"   ? &variant.other
                        : key == "kv"      ? &variant.kv_cache_dtype
                                           : nullptr;
  if (target == nullptr || value.empty()) {
    return bad_input(
        fmt::format("unknown modifier \":{}\" (--schemes); expected :plain, :attn=, :mlp=, :experts= "
                    "or :other= with a scheme, or :kv= with a cache dtype",
                    modifier));
  }
  if (key != "kv") NIB_TRY_STATUS(check_scheme(value));
  *target = value;
  return {};
}

}  // namespace

std::string SchemeVariant::name() const {
  std::string text = scheme + (plain_scales ? " (plain)" : "");
  if (!attn.empty()) text += ", attn " + attn;
  if (!mlp.empty()) text += ", mlp " + mlp;
  if (!experts.empty()) text += ", experts " + experts;
  if (!other.empty()) text += ", other " + other;
  if (!kv_cache_dtype.empty()) text += " + kv " + kv_cache_dtype;
  return text;
}

LlmOptions SchemeVariant::apply(LlmOptions options) const {
  options.quantization = scheme;
  options.attn_quantization = attn;
  options.mlp_quantization = mlp;
  options.experts_quantization = experts;
  options.other_quantization = other;
  options.search_scales = options.search_scales && !plain_scales;
  if (!kv_cache_dtype.empty()) options.kv_cache_dtype = kv_cache_dtype;
  return options;
}

Result<std::vector<SchemeVariant>> parse_scheme_variants(std::string_view list) {
  std::vector<SchemeVariant> variants;
  for (const std::string_view item : split(list, ',')) {
    const std::vector<std::string_view> parts = split(item, ':');
    NIB_TRY_STATUS(check_scheme(parts.front()));
    SchemeVariant& variant = variants.emplace_back();
    variant.scheme = parts.front();
    for (std::size_t i = 1; i < parts.size(); ++i) NIB_TRY_STATUS(apply_modifier(variant, parts[i]));
  }
  return variants;
}

std::vector<SchemeVariant> default_scheme_variants(const LlmOptions& options) {
  std::vector<SchemeVariant> variants;
  for (const SchemeInfo& scheme : quantization_schemes()) {
    variants.push_back({.scheme = scheme.name});
    const bool four_bits = !scheme.weights.empty() && scheme.weights.back() == '4';
    if (four_bits && scheme.activations == "a16") {
      variants.push_back({.scheme = scheme.name, .plain_scales = true});
    }
  }
  for (const char* dtype : kCacheDtypes) {
    const SchemeVariant variant{.scheme = "auto", .kv_cache_dtype = dtype};
    if (plan_model(variant.apply(options)).ok()) variants.push_back(variant);
  }
  return variants;
}

}  // namespace nibble::cli
