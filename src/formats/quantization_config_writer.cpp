#include "formats/quantization_config_writer.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "formats/config_fields.h"

namespace nibble::formats {
namespace {

using Json = nlohmann::ordered_json;
using quant::WeightFormat;

constexpr int kIndent = 2;

// compressed-tensors' QuantizationArgs of a format's weights: one row each.
struct WeightArgs {
  WeightFormat format;
  std::string_view file_format;
  int num_bits;
  std::string_view type;
  std::string_view strategy;
  std::int64_t group_size;  // 0 = null
};
constexpr std::array kWeightArgs = {
    WeightArgs{WeightFormat::fp8, "float-quantized", 8, "float", "block", 0},
    WeightArgs{WeightFormat::mxfp4, "mxfp4-pack-quantized", 4, "float", "group", 32},
    WeightArgs{WeightFormat::nvfp4, "nvfp4-pack-quantized", 4, "float", "tensor_group", 16},
    WeightArgs{WeightFormat::int8, "int-quantized", 8, "int", "channel", 0},
    WeightArgs{WeightFormat::int4, "pack-quantized", 4, "int", "group", 128},
};

const WeightArgs& args_of(WeightFormat format) {
  for (const WeightArgs& row : kWeightArgs) {
    if (row.format == format) return row;
  }
  NIB_CHECK(false, "{} has no quantization_config", quant::format_name(format));
}

Json weights_json(const WeightArgs& args) {
  Json weights{{"num_bits", args.num_bits}, {"type", args.type},     {"symmetric", true},
               {"strategy", args.strategy}, {"group_size", nullptr}, {"block_structure", nullptr},
               {"dynamic", false},          {"actorder", nullptr},   {"observer", "minmax"}};
  if (args.group_size != 0) weights["group_size"] = args.group_size;
  if (args.format == WeightFormat::fp8) weights["block_structure"] = Json::array({128, 128});
  if (args.format == WeightFormat::mxfp4) weights["scale_dtype"] = "torch.uint8";
  return weights;
}

Json compressed_tensors_json(const QuantizationClaim& claim) {
  const bool mixed = claim.groups.size() > 1;
  Json groups = Json::object();
  for (std::size_t i = 0; i < claim.groups.size(); ++i) {
    const WeightArgs& args = args_of(claim.groups[i].format);
    Json group{{"targets", claim.groups[i].targets},
               {"weights", weights_json(args)},
               {"input_activations", nullptr},
               {"output_activations", nullptr}};
    if (mixed) group["format"] = args.file_format;
    groups[fmt::format("group_{}", i)] = std::move(group);
  }
  const std::string_view format =
      mixed ? "mixed-precision" : args_of(claim.groups.front().format).file_format;
  return {
      {"quant_method", "compressed-tensors"}, {"format", format},       {"quantization_status", "compressed"},
      {"config_groups", std::move(groups)},   {"ignore", claim.ignore}, {"kv_cache_scheme", nullptr},
      {"global_compression_ratio", nullptr}};
}

Json modelopt_json(const QuantizationClaim& claim) {
  Json group{{"weights", {{"num_bits", 4}, {"type", "float"}, {"group_size", 16}, {"dynamic", false}}},
             {"targets", Json::array({"Linear"})}};
  return {{"quant_method", "modelopt"},
          {"quant_algo", "NVFP4"},
          {"config_groups", {{"group_0", std::move(group)}}},
          {"ignore", claim.ignore},
          {"producer", {{"name", "nibble"}}}};
}

// As DeepSeek's own; modules_to_not_convert is transformers' name for the exceptions.
Json fp8_json(const QuantizationClaim& claim) {
  return {{"quant_method", "fp8"},
          {"fmt", "e4m3"},
          {"activation_scheme", "dynamic"},
          {"weight_block_size", Json::array({128, 128})},
          {"modules_to_not_convert", claim.ignore}};
}

// As GPTQModel writes it: its "dynamic" rules that begin with "-:" are regular expressions of modules that
// are not quantised.
Json gptq_json(const QuantizationClaim& claim) {
  Json skipped = Json::object();
  for (const std::string& name : claim.ignore) {
    std::string rule = "-:";
    if (name.starts_with("re:")) {
      rule += name.substr(3);
    } else {
      for (const char c : name) rule += c == '.' ? std::string("\\.") : std::string(1, c);
      rule += '$';
    }
    skipped[rule] = Json::object();
  }
  const GptqClaim& gptq = claim.gptq;
  return {{"quant_method", "gptq"},
          {"bits", gptq.bits},
          {"group_size", gptq.group_size},
          {"desc_act", gptq.act_order},
          {"sym", !gptq.zero_points},
          {"lm_head", false},
          {"damp_percent", gptq.damp_percent},
          {"static_groups", false},
          {"true_sequential", false},
          {"checkpoint_format", "gptq"},
          {"pack_dtype", "int32"},
          {"dynamic", std::move(skipped)},
          {"meta", {{"quantizer", Json::array({"nibble"})}}}};
}

Json claim_json(const QuantizationClaim& claim) {
  switch (claim.method) {
    case QuantMethod::fp8: return fp8_json(claim);
    case QuantMethod::modelopt: return modelopt_json(claim);
    case QuantMethod::compressed_tensors: return compressed_tensors_json(claim);
    case QuantMethod::gptq: return gptq_json(claim);
    case QuantMethod::none: break;
  }
  return nullptr;
}

}  // namespace

Result<std::string> replace_quantization_config(std::string_view config_json, std::string_view where,
                                                const QuantizationClaim& claim) {
  NIB_TRY(Json config, parse_json(config_json, where));
  NIB_TRY_STATUS(check_is_object(config, where));
  config.erase("quantization_config");
  if (claim.method != QuantMethod::none) config["quantization_config"] = claim_json(claim);
  return config.dump(kIndent) + '\n';
}

std::string hf_quant_config_text(const QuantizationClaim& claim) {
  const Json json{{"producer", {{"name", "nibble"}}},
                  {"quantization",
                   {{"quant_algo", "NVFP4"},
                    {"kv_cache_quant_algo", nullptr},
                    {"group_size", 16},
                    {"exclude_modules", claim.ignore}}}};
  return json.dump(kIndent) + '\n';
}

}  // namespace nibble::formats
