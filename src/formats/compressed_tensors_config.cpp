#include "formats/compressed_tensors_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>

namespace nibble::formats {
namespace {

using quant::WeightFormat;

// What a `format` may hold: one row each.
struct FormatNameRow {
  std::string_view name;
  std::array<WeightFormat, 3> formats;
  std::int64_t float_group;  // group size of its four-bit floats; 0 = not four-bit floats
};
constexpr std::array kFormatNames = {
    FormatNameRow{"pack-quantized", {WeightFormat::int4, WeightFormat::int8, WeightFormat::int8}, 0},
    FormatNameRow{"int-quantized", {WeightFormat::int8, WeightFormat::int8, WeightFormat::int8}, 0},
    FormatNameRow{"float-quantized", {WeightFormat::fp8, WeightFormat::fp8, WeightFormat::fp8}, 0},
    FormatNameRow{"naive-quantized", {WeightFormat::fp8, WeightFormat::int8, WeightFormat::int8}, 0},
    FormatNameRow{
        "nvfp4-pack-quantized", {WeightFormat::nvfp4, WeightFormat::nvfp4, WeightFormat::nvfp4}, 16},
    FormatNameRow{
        "mxfp4-pack-quantized", {WeightFormat::mxfp4, WeightFormat::mxfp4, WeightFormat::mxfp4}, 32},
};
constexpr std::array<std::string_view, 6> kSupported = {"pack-quantized",       "int-quantized",
                                                        "float-quantized",      "naive-quantized",
                                                        "nvfp4-pack-quantized", "mxfp4-pack-quantized"};

// Runs read(group, weights) for every entry of config_groups that describes weights.
void for_each_group(ConfigFields& fields, const std::function<void(ConfigFields&, ConfigFields&)>& read) {
  std::optional<ConfigFields> groups = fields.optional_object("config_groups");
  if (!groups) return;
  for (const auto& [name, value] : fields.find("config_groups")->items()) {
    std::optional<ConfigFields> group = groups->optional_object(name);
    std::optional<ConfigFields> weights = group ? group->optional_object("weights") : std::nullopt;
    if (weights) {
      read(*group, *weights);
      group->absorb(weights->status());
    }
    if (group) fields.absorb(group->status());
  }
  fields.absorb(groups->status());
}

// Weights of four-bit floats: what group_size they must have.
void check_float_weights(ConfigFields& weights, std::int64_t group_size) {
  std::int64_t bits = 4;
  std::int64_t size = group_size;
  weights.optional_integer("num_bits", bits, {1, 64});
  weights.optional_integer("group_size", size, {-1, 1 << 20});
  weights.only_string("type", "float");
  if (bits == 4 && size == group_size) return;
  const std::string supported = fmt::format("4 bits in groups of {}", group_size);
  const std::string_view supported_view = supported;
  weights.fail_unsupported("num_bits, group_size", fmt::format("{} bits in groups of {}", bits, size),
                           {&supported_view, 1});
}

// Adds what `format` may hold; `fields` is where it is named. Null, with an error there, if it is unknown.
const FormatNameRow* add_format(ConfigFields& fields, const std::string& format, QuantizationConfig& out) {
  for (const FormatNameRow& row : kFormatNames) {
    if (row.name != format) continue;
    out.formats.insert(out.formats.end(), row.formats.begin(), row.formats.end());
    return &row;
  }
  fields.fail_unsupported("format", format, kSupported);
  return nullptr;
}

// "mixed-precision": every group names its own format.
void read_mixed(ConfigFields& fields, QuantizationConfig& out) {
  for_each_group(fields, [&](ConfigFields& group, ConfigFields& weights) {
    std::string own;
    group.string("format", own);
    const FormatNameRow* row = group.ok() ? add_format(group, own, out) : nullptr;
    if (row != nullptr && row->float_group != 0) check_float_weights(weights, row->float_group);
  });
}

// Integer weights: bits, groups, zero points.
void read_integers(ConfigFields& weights, QuantizationConfig& out) {
  static constexpr std::array<std::string_view, 2> kBits = {"4", "8"};
  static constexpr std::array<std::string_view, 4> kActOrders = {"weight", "group", "static", "dynamic"};
  std::string type = "int";
  weights.optional_string("type", type);
  if (type != "int") return;
  std::int64_t bits = 8;
  IntegerScheme scheme;
  weights.optional_integer("num_bits", bits, {1, 64});
  weights.optional_integer("group_size", scheme.group_size, {-1, 1 << 24});
  weights.optional_boolean("symmetric", scheme.symmetric);
  if (bits != 4 && bits != 8) weights.fail_unsupported("num_bits", fmt::format("{}", bits), kBits);
  if (scheme.group_size != -1 && (scheme.group_size <= 0 || scheme.group_size % 32 != 0)) {
    constexpr std::string_view kGroups = "-1 or a multiple of 32";
    weights.fail_unsupported("group_size", fmt::format("{}", scheme.group_size), {&kGroups, 1});
  }
  std::string order;
  // actorder "weight" (static) leaves channels where they are; "group" (dynamic) stores weight_g_idx.
  if (weights.optional_string("actorder", order)) {
    if (std::find(kActOrders.begin(), kActOrders.end(), order) == kActOrders.end()) {
      weights.fail_unsupported("actorder", order, kActOrders);
    }
    scheme.act_order = order == "group" || order == "dynamic";
  }
  scheme.bits = static_cast<int>(bits);
  out.integers.push_back(scheme);
}

}  // namespace

void check_float_groups(ConfigFields& fields, std::int64_t group_size) {
  for_each_group(fields, [group_size](ConfigFields&, ConfigFields& weights) {
    check_float_weights(weights, group_size);
  });
}

void parse_compressed_tensors(ConfigFields& fields, QuantizationConfig& out) {
  std::string format;
  fields.string("format", format);
  out.description = fmt::format("compressed-tensors {}", format);
  if (!fields.ok()) return;
  if (format == "mixed-precision") {
    read_mixed(fields, out);
  } else if (const FormatNameRow* row = add_format(fields, format, out);
             row != nullptr && row->float_group != 0) {
    check_float_groups(fields, row->float_group);
  }
  for_each_group(fields, [&](ConfigFields&, ConfigFields& weights) { read_integers(weights, out); });
  fields.optional_strings("ignore", out.ignore);
}

}  // namespace nibble::formats
