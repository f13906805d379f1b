#include "formats/quantization_config.h"

#include <fmt/format.h>

#include <array>
#include <string>

namespace nibble::formats {
namespace {

using Json = ConfigFields::Json;

constexpr std::int64_t kFp8Block = 128;
constexpr std::int64_t kNvfp4Group = 16;
constexpr std::int64_t kMxfp4Group = 32;

void read_block_size(ConfigFields& fields, QuantizationConfig& out) {
  constexpr std::string_view kSupported = "[128, 128]";
  const Json* value = fields.find("weight_block_size");
  if (value == nullptr) {
    fields.fail_unsupported("weight_block_size", "none (one scale per tensor)", {&kSupported, 1});
    return;
  }
  const bool two_sizes = value->is_array() && value->size() == 2 && (*value)[0].is_number_integer() &&
                         (*value)[1].is_number_integer() && (*value)[0] > 0 && (*value)[1] > 0;
  if (!two_sizes) {
    fields.fail_expected("weight_block_size", "two positive integers");
    return;
  }
  if ((*value)[0] != kFp8Block || (*value)[1] != kFp8Block) {
    fields.fail_unsupported("weight_block_size", value->dump(), {&kSupported, 1});
  }
  out.block_n = kFp8Block;
  out.block_k = kFp8Block;
}

// DeepSeek V3 and later: E4M3 with a scale per 128 x 128 block. scale_fmt "ue8m0" promises scales that
// are powers of two; they are read as stored either way.
void parse_fp8(ConfigFields& fields, QuantizationConfig& out) {
  static constexpr std::array<std::string_view, 2> kScaleFormats = {"ue8m0", "float"};
  out.method = QuantMethod::fp8;
  out.description = "fp8 (e4m3, 128x128 blocks)";
  fields.only_string("fmt", "e4m3");
  fields.only_string("activation_scheme", "dynamic");
  std::string scale_fmt;
  if (fields.optional_string("scale_fmt", scale_fmt) && scale_fmt != kScaleFormats[0] &&
      scale_fmt != kScaleFormats[1]) {
    fields.fail_unsupported("scale_fmt", scale_fmt, kScaleFormats);
  }
  fields.only_absent("moe_quant_algo");
  read_block_size(fields, out);
  fields.optional_strings("modules_to_not_convert", out.ignore);
}

// The weights of every config_groups entry must be groups of `group_size` four-bit floats.
void check_groups(ConfigFields& fields, std::int64_t group_size) {
  std::optional<ConfigFields> groups = fields.optional_object("config_groups");
  if (!groups) return;
  for (const auto& [name, value] : fields.find("config_groups")->items()) {
    std::optional<ConfigFields> group = groups->optional_object(name);
    std::optional<ConfigFields> weights = group ? group->optional_object("weights") : std::nullopt;
    if (group) fields.absorb(group->status());
    if (!weights) continue;
    std::int64_t bits = 4;
    std::int64_t size = group_size;
    weights->optional_integer("num_bits", bits, {1, 64});
    weights->optional_integer("group_size", size, {-1, 1 << 20});
    weights->only_string("type", "float");
    const std::string supported = fmt::format("4 bits in groups of {}", group_size);
    const std::string_view supported_view = supported;
    if (bits != 4 || size != group_size) {
      weights->fail_unsupported("num_bits, group_size", fmt::format("{} bits in groups of {}", bits, size),
                                {&supported_view, 1});
    }
    fields.absorb(weights->status());
  }
  fields.absorb(groups->status());
}

void parse_modelopt(ConfigFields& fields, QuantizationConfig& out) {
  out.method = QuantMethod::modelopt_nvfp4;
  out.description = "nvfp4 (ModelOpt)";
  std::string algo;
  fields.string("quant_algo", algo);
  constexpr std::string_view kSupported = "NVFP4";
  if (fields.ok() && algo != kSupported) fields.fail_unsupported("quant_algo", algo, {&kSupported, 1});
  std::int64_t group_size = kNvfp4Group;
  if (fields.optional_integer("group_size", group_size, {1, 1 << 20}) && group_size != kNvfp4Group) {
    constexpr std::string_view kGroup = "16";
    fields.fail_unsupported("group_size", fmt::format("{}", group_size), {&kGroup, 1});
  }
  check_groups(fields, kNvfp4Group);
  if (!fields.optional_strings("ignore", out.ignore)) fields.optional_strings("exclude_modules", out.ignore);
}

void parse_mxfp4(ConfigFields& fields, QuantizationConfig& out) {
  out.method = QuantMethod::mxfp4;
  out.description = "mxfp4";
  fields.optional_strings("modules_to_not_convert", out.ignore);
}

void parse_compressed_tensors(ConfigFields& fields, QuantizationConfig& out) {
  out.method = QuantMethod::mxfp4;
  out.description = "mxfp4 (compressed-tensors)";
  std::string format;
  fields.string("format", format);
  constexpr std::string_view kSupported = "mxfp4-pack-quantized";
  if (fields.ok() && format != kSupported) fields.fail_unsupported("format", format, {&kSupported, 1});
  check_groups(fields, kMxfp4Group);
  fields.optional_strings("ignore", out.ignore);
}

// How config.json names the formats: one row each.
struct MethodRow {
  std::string_view name;
  void (*parse)(ConfigFields&, QuantizationConfig&);
};
constexpr std::array kMethods = {
    MethodRow{"fp8", parse_fp8},
    MethodRow{"modelopt", parse_modelopt},
    MethodRow{"modelopt_fp4", parse_modelopt},
    MethodRow{"mxfp4", parse_mxfp4},
    MethodRow{"compressed-tensors", parse_compressed_tensors},
};

constexpr std::array<std::string_view, 4> kSupportedMethods = {
    "none", "fp8 (128x128 blocks)", "modelopt (NVFP4)", "mxfp4, compressed-tensors mxfp4-pack-quantized"};

Result<QuantizationConfig> finish(const ConfigFields& fields, QuantizationConfig out) {
  NIB_TRY_STATUS(fields.status());
  return out;
}

}  // namespace

Result<QuantizationConfig> parse_quantization_config(ConfigFields fields) {
  QuantizationConfig out;
  std::string method;
  fields.string("quant_method", method);
  NIB_TRY_STATUS(fields.status());
  for (const MethodRow& row : kMethods) {
    if (row.name != method) continue;
    row.parse(fields, out);
    return finish(fields, std::move(out));
  }
  fields.fail_unsupported("quant_method", method, kSupportedMethods);
  return finish(fields, {});
}

Result<QuantizationConfig> parse_hf_quant_config(ConfigFields fields) {
  std::optional<ConfigFields> quantization = fields.optional_object("quantization");
  if (!quantization) {
    fields.fail_expected("quantization", "an object");
    return finish(fields, {});
  }
  QuantizationConfig out;
  parse_modelopt(*quantization, out);
  return finish(*quantization, std::move(out));
}

}  // namespace nibble::formats
