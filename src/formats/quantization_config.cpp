#include "formats/quantization_config.h"

#include <fmt/format.h>

#include <array>
#include <string>

#include "formats/compressed_tensors_config.h"

namespace nibble::formats {
namespace {

using Json = ConfigFields::Json;
using quant::MatrixLayout;
using quant::WeightFormat;

constexpr IntRange kBitsRange{1, 64};
constexpr IntRange kGroupRange{-1, 1 << 24};

// [128, 128], the only grid that is published.
void check_block_size(ConfigFields& fields, const Json& value) {
  constexpr std::string_view kSupported = "[128, 128]";
  const bool two_sizes = value.is_array() && value.size() == 2 && value[0].is_number_integer() &&
                         value[1].is_number_integer() && value[0] > 0 && value[1] > 0;
  if (!two_sizes) return fields.fail_expected("weight_block_size", "two positive integers");
  if (value[0] != 128 || value[1] != 128) {
    fields.fail_unsupported("weight_block_size", value.dump(), {&kSupported, 1});
  }
}

// DeepSeek V3 and later: E4M3 with a scale per 128 x 128 block, or, without weight_block_size, per
// tensor or channel. scale_fmt "ue8m0" promises powers of two; scales are read as stored either way.
void parse_fp8(ConfigFields& fields, QuantizationConfig& out) {
  static constexpr std::array<std::string_view, 2> kScaleFormats = {"ue8m0", "float"};
  static constexpr std::array<std::string_view, 2> kActivations = {"dynamic", "static"};
  // DeepSeek-V4 keeps its experts in MXFP4 under the same method.
  out.formats = {WeightFormat::fp8, WeightFormat::mxfp4};
  out.description = "fp8 (e4m3)";
  fields.only_string("fmt", "e4m3");
  std::string value;
  if (fields.optional_string("activation_scheme", value) && value != kActivations[0] &&
      value != kActivations[1]) {
    fields.fail_unsupported("activation_scheme", value, kActivations);
  }
  if (fields.optional_string("scale_fmt", value) && value != kScaleFormats[0] && value != kScaleFormats[1]) {
    fields.fail_unsupported("scale_fmt", value, kScaleFormats);
  }
  if (fields.optional_string("moe_quant_algo", value)) {
    constexpr std::string_view kNvfp4 = "NVFP4";
    if (value != kNvfp4) fields.fail_unsupported("moe_quant_algo", value, {&kNvfp4, 1});
    out.formats.push_back(WeightFormat::nvfp4);
  }
  if (const Json* block = fields.find("weight_block_size")) {
    check_block_size(fields, *block);
    out.description = "fp8 (e4m3, 128x128 blocks)";
  }
  fields.optional_strings("modules_to_not_convert", out.ignore);
}

// SGLang's INT8: "blockwise_int8" has a scale per 128 x 128 block, "w8a8_int8" one per row.
void parse_int8(ConfigFields& fields, QuantizationConfig& out) {
  out.formats = {WeightFormat::int8};
  out.description = out.method;
  if (const Json* block = fields.find("weight_block_size")) check_block_size(fields, *block);
  fields.optional_strings("modules_to_not_convert", out.ignore);
}

struct AlgoRow {
  std::string_view name;
  std::array<WeightFormat, 2> formats;
};
// ModelOpt's quant_algo. MIXED_PRECISION lists its modules in quantized_layers; their tensors tell.
constexpr std::array kAlgos = {
    AlgoRow{"NVFP4", {WeightFormat::nvfp4, WeightFormat::nvfp4}},
    AlgoRow{"FP8", {WeightFormat::fp8, WeightFormat::fp8}},
    AlgoRow{"FP8_PB_REAL", {WeightFormat::fp8, WeightFormat::fp8}},
    AlgoRow{"FP8_PB_WO", {WeightFormat::fp8, WeightFormat::fp8}},
    AlgoRow{"FP8_PC_PT", {WeightFormat::fp8, WeightFormat::fp8}},
    AlgoRow{"MIXED_PRECISION", {WeightFormat::nvfp4, WeightFormat::fp8}},
};
constexpr std::array<std::string_view, 6> kAlgoNames = {"NVFP4",     "FP8",       "FP8_PB_REAL",
                                                        "FP8_PB_WO", "FP8_PC_PT", "MIXED_PRECISION"};

void parse_modelopt(ConfigFields& fields, QuantizationConfig& out) {
  std::string algo;
  fields.string("quant_algo", algo);
  out.description = fmt::format("{} (ModelOpt)", algo);
  for (const AlgoRow& row : kAlgos) {
    if (row.name == algo) out.formats = {row.formats[0], row.formats[1]};
  }
  if (fields.ok() && out.formats.empty()) fields.fail_unsupported("quant_algo", algo, kAlgoNames);
  std::int64_t group_size = 16;
  if (algo == "NVFP4" && fields.optional_integer("group_size", group_size, kGroupRange) && group_size != 16) {
    constexpr std::string_view kGroup = "16";
    fields.fail_unsupported("group_size", fmt::format("{}", group_size), {&kGroup, 1});
  }
  if (algo == "NVFP4") check_float_groups(fields, 16);
  if (!fields.optional_strings("ignore", out.ignore)) fields.optional_strings("exclude_modules", out.ignore);
}

void parse_mxfp4(ConfigFields& fields, QuantizationConfig& out) {
  out.formats = {WeightFormat::mxfp4};
  out.description = "mxfp4";
  fields.optional_strings("modules_to_not_convert", out.ignore);
}

// The first of two spellings that is there.
void either_integer(ConfigFields& fields, std::string_view name, std::string_view old_name, std::int64_t& out,
                    IntRange range) {
  if (!fields.optional_integer(name, out, range)) fields.optional_integer(old_name, out, range);
}

// A group size the tensors may have: -1 or a multiple of 32.
void check_group_size(ConfigFields& fields, std::string_view name, std::int64_t group_size) {
  if (!fields.ok() || group_size == -1 || (group_size > 0 && group_size % 32 == 0)) return;
  constexpr std::string_view kSupported = "-1 or a multiple of 32";
  fields.fail_unsupported(name, fmt::format("{}", group_size), {&kSupported, 1});
}

void use_integers(QuantizationConfig& out, const IntegerScheme& scheme) {
  out.formats = {scheme.bits == 4 ? WeightFormat::int4 : WeightFormat::int8};
  out.integers = {scheme};
  out.description = fmt::format(
      "{}, {} bits, {}{}{}", out.method, scheme.bits,
      scheme.group_size < 0 ? "one scale per row" : fmt::format("groups of {}", scheme.group_size),
      scheme.symmetric ? "" : ", zero points", scheme.act_order ? ", act-order" : "");
}

// GPTQModel's per-module overrides: skipped modules ("-:" rules) are plain tensors and need no rule.
void check_dynamic(ConfigFields& fields) {
  const Json* dynamic = fields.find("dynamic");
  if (dynamic == nullptr) return;
  if (!dynamic->is_object()) return fields.fail_expected("dynamic", "an object");
  for (const auto& [rule, value] : dynamic->items()) {
    if (rule.starts_with("-:")) continue;
    constexpr std::string_view kSupported = "rules that skip modules (\"-:...\")";
    return fields.fail_unsupported("dynamic", rule, {&kSupported, 1});
  }
}

void parse_gptq(ConfigFields& fields, QuantizationConfig& out) {
  static constexpr std::array<std::string_view, 2> kBits = {"4", "8"};
  static constexpr std::array<std::string_view, 2> kLayouts = {"gptq", "gptq_v2"};
  std::int64_t bits = 4;
  IntegerScheme scheme;
  either_integer(fields, "bits", "w_bit", bits, kBitsRange);
  either_integer(fields, "group_size", "q_group_size", scheme.group_size, kGroupRange);
  fields.optional_boolean("sym", scheme.symmetric);
  fields.optional_boolean("desc_act", scheme.act_order);
  if (bits != 4 && bits != 8) fields.fail_unsupported("bits", fmt::format("{}", bits), kBits);
  check_group_size(fields, "group_size", scheme.group_size);
  scheme.bits = static_cast<int>(bits);
  std::string layout(kLayouts[0]);
  fields.optional_string("checkpoint_format", layout);
  if (layout != kLayouts[0] && layout != kLayouts[1]) {
    fields.fail_unsupported("checkpoint_format", layout, kLayouts);
  }
  fields.only_boolean("is_marlin_format", false);
  check_dynamic(fields);
  out.layout = layout == kLayouts[1] ? MatrixLayout::gptq_v2 : MatrixLayout::gptq;
  use_integers(out, scheme);
}

void parse_awq(ConfigFields& fields, QuantizationConfig& out) {
  constexpr std::string_view kBits = "4";
  std::int64_t bits = 4;
  bool zero_point = true;
  std::string version = "gemm";
  IntegerScheme scheme{.group_size = 128};
  either_integer(fields, "bits", "w_bit", bits, kBitsRange);
  either_integer(fields, "group_size", "q_group_size", scheme.group_size, kGroupRange);
  fields.optional_boolean("zero_point", zero_point);
  fields.optional_string("version", version);
  if (bits != 4) fields.fail_unsupported("bits", fmt::format("{}", bits), {&kBits, 1});
  constexpr std::string_view kVersion = "gemm";
  if (version != "gemm" && version != "GEMM") fields.fail_unsupported("version", version, {&kVersion, 1});
  check_group_size(fields, "group_size", scheme.group_size);
  fields.optional_strings("modules_to_not_convert", out.ignore);
  scheme.symmetric = !zero_point;
  out.layout = MatrixLayout::awq;
  use_integers(out, scheme);
}

// How config.json names the methods: one row each.
struct MethodRow {
  std::string_view name;
  void (*parse)(ConfigFields&, QuantizationConfig&);
};
constexpr std::array kMethods = {
    MethodRow{"fp8", parse_fp8},
    MethodRow{"modelopt", parse_modelopt},
    MethodRow{"modelopt_fp4", parse_modelopt},
    MethodRow{"mxfp4", parse_mxfp4},
    MethodRow{"gptq", parse_gptq},
    MethodRow{"awq", parse_awq},
    MethodRow{"blockwise_int8", parse_int8},
    MethodRow{"w8a8_int8", parse_int8},
    MethodRow{"compressed-tensors", parse_compressed_tensors},
};

constexpr std::array<std::string_view, 8> kSupportedMethods = {
    "fp8",        "modelopt (NVFP4, FP8)", "mxfp4",     "gptq (4 and 8 bits)",
    "awq (gemm)", "blockwise_int8",        "w8a8_int8", "compressed-tensors"};

Result<QuantizationConfig> parse_method(std::string_view method, ConfigFields& fields) {
  QuantizationConfig out;
  out.method = std::string(method);
  for (const MethodRow& row : kMethods) {
    if (row.name != method) continue;
    row.parse(fields, out);
    NIB_TRY_STATUS(fields.status());
    return out;
  }
  fields.fail_unsupported("quant_method", method, kSupportedMethods);
  NIB_TRY_STATUS(fields.status());
  return out;
}

}  // namespace

Result<QuantizationConfig> parse_quantization_config(ConfigFields fields) {
  std::string method;
  fields.string("quant_method", method);
  NIB_TRY_STATUS(fields.status());
  return parse_method(method, fields);
}

Result<QuantizationConfig> parse_hf_quant_config(ConfigFields fields) {
  std::optional<ConfigFields> quantization = fields.optional_object("quantization");
  if (!quantization) fields.fail_expected("quantization", "an object");
  NIB_TRY_STATUS(fields.status());
  return parse_method("modelopt", *quantization);
}

Result<QuantizationConfig> parse_quantization_side_file(std::string_view method, ConfigFields fields) {
  return parse_method(method, fields);
}

}  // namespace nibble::formats
