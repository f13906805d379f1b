#include "models/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <new>
#include <optional>
#include <utility>

#include "core/out_of_memory.h"
#include "formats/checkpoint.h"
#include "kernels/cache_layout.h"
#include "models/binding.h"
#include "models/checkpoint_shape.h"
#include "models/deepseek_v2/model.h"
#include "models/deepseek_v3/model.h"
#include "models/dummy.h"
#include "models/loadable_model.h"
#include "models/loader.h"

namespace nibble::models {
namespace {

struct Family {
  std::string_view model_type;
  Result<std::unique_ptr<LoadableModel>> (*make)(const formats::HfConfig&, const ModelOptions&);
};
constexpr std::array kFamilies = {
    Family{"deepseek_v2", deepseek_v2::make},
    Family{"deepseek_v3", deepseek_v3::make},
};

// A model with its weight list; formats are set, nothing is allocated. Without a checkpoint the weights
// are dummies.
struct Shaped {
  std::unique_ptr<LoadableModel> model;
  std::unique_ptr<std::vector<WeightSpec>> specs;  // bindings point into it
  std::optional<formats::Checkpoint> checkpoint;
  BoundCheckpoint bound;
  quant::ScaleRule scales = quant::ScaleRule::searched;
};

ModelOptions model_options(const LoadOptions& options) {
  return {.cache_dtype = options.cache_dtype, .max_model_len = options.max_model_len};
}

Status check_options(const LoadOptions& options) {
  const DType cache = options.cache_dtype;
  if (cache != DType::f32 && cache != DType::bf16 && !kernels::is_fp8_cache(cache)) {
    return unsupported(
        fmt::format("cache dtype {}; supported: F32, BF16, F8_E4M3, F8_E5M2", dtype_name(cache)));
  }
  if (options.num_hidden_layers != 0 && !options.dummy) {
    return bad_input("num_hidden_layers shortens models with dummy weights only");
  }
  if (options.num_hidden_layers < 0 || options.max_model_len < 0) {
    return bad_input(fmt::format("num_hidden_layers {} and max_model_len {} must not be negative",
                                 options.num_hidden_layers, options.max_model_len));
  }
  return {};
}

Result<Shaped> shape_dummy(const LoadOptions& options) {
  const std::filesystem::path path = options.config.empty() ? options.dir / "config.json" : options.config;
  NIB_TRY(formats::HfConfig config, formats::load_hf_config(path));
  std::vector<std::string> notes{"dummy weights: the output means nothing"};
  if (options.num_hidden_layers > 0 && options.num_hidden_layers < config.num_hidden_layers) {
    notes.push_back(
        fmt::format("shortened to {} of {} layers", options.num_hidden_layers, config.num_hidden_layers));
    config.num_hidden_layers = options.num_hidden_layers;
  }
  constexpr std::int64_t kMaxTensors = 500'000;  // ten times as many as the largest published model has
  if (min_num_tensors(config) > kMaxTensors) {
    return unsupported(fmt::format("{}: num_hidden_layers {} with n_routed_experts {} needs over {} tensors",
                                   path.string(), config.num_hidden_layers, config.n_routed_experts,
                                   kMaxTensors));
  }
  NIB_TRY(const QuantConfig quant, QuantConfig::resolve(options.quant));
  Shaped shaped;
  NIB_TRY(shaped.model, make_model(config, model_options(options)));
  shaped.specs = std::make_unique<std::vector<WeightSpec>>(shaped.model->weight_specs());
  NIB_TRY_STATUS(set_dummy_formats(*shaped.specs, quant, claimed_scheme(config.quantization)));
  shaped.model->mutable_info().notes = std::move(notes);
  return shaped;
}

// "bf16", or by kind: "bf16 attn, mxfp4 experts+mlp".
std::string describe_formats(const std::vector<WeightPlanRow>& rows) {
  std::map<std::string_view, std::string> kinds_of;  // format -> kinds
  for (const WeightPlanRow& row : rows) {
    if (row.kind == "other") continue;
    std::string& kinds = kinds_of[row.format];
    kinds += (kinds.empty() ? "" : "+") + row.kind;
  }
  if (kinds_of.size() == 1) return std::string(kinds_of.begin()->first);
  std::string text;
  for (const auto& [format, kinds] : kinds_of)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", format, kinds);
  return text;
}

std::vector<WeightPlanRow> plan_rows(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of) {
  using Key = std::pair<LayerKind, std::string>;
  std::map<Key, WeightPlanRow> rows;
  const auto row_of = [&](LayerKind kind, std::string_view format) -> WeightPlanRow& {
    WeightPlanRow& row = rows[{kind, std::string(format)}];
    row.kind = layer_kind_name(kind);
    row.format = format;
    return row;
  };
  for (const WeightSpec& spec : specs) {
    const std::string_view format =
        spec.is_matrix() ? quant::format_name(spec.blocks.front().weight->shape.format) : "f32";
    WeightPlanRow& row = row_of(spec.kind, format);
    row.num_parameters += spec.num_parameters();
    if (!spec.is_matrix()) row.packed_bytes += static_cast<std::uint64_t>(spec.vector->size) * sizeof(float);
  }
  for (const WeightEntry& entry : distinct_weights(specs)) {
    row_of(entry.kind, quant::format_name(entry.weight->shape.format)).packed_bytes +=
        bytes_of(*entry.weight);
  }
  std::vector<WeightPlanRow> list;
  for (auto& [key, row] : rows) list.push_back(std::move(row));
  return list;
}

// Fills the model's info and costs; bytes_of is exact for both allocated and planned weights.
std::vector<WeightPlanRow> settle(const Shaped& shaped, const kernels::Device& device) {
  const WeightBytes bytes_of = [&](const kernels::Weight& weight) {
    return weight.empty() ? device.weight_bytes(weight.shape) : weight.bytes();
  };
  shaped.model->settle_costs(*shaped.specs, bytes_of);
  std::vector<WeightPlanRow> rows = plan_rows(*shaped.specs, bytes_of);
  shaped.model->mutable_info().formats = describe_formats(rows);
  return rows;
}

Result<Shaped> shape_model(const LoadOptions& options) {
  NIB_TRY_STATUS(check_options(options));
  if (options.dummy) return shape_dummy(options);
  NIB_TRY(const QuantConfig quant, QuantConfig::resolve(options.quant));
  NIB_TRY(CheckpointShape shape, shape_checkpoint(options.dir, model_options(options), quant));
  return Shaped{.model = std::move(shape.model),
                .specs = std::move(shape.specs),
                .checkpoint = std::move(shape.checkpoint),
                .bound = std::move(shape.bound),
                .scales = options.quant.search_scales ? quant::ScaleRule::searched : quant::ScaleRule::plain};
}

Status fill(Shaped& shaped, kernels::Device& device, const ProgressCallback& progress) {
  NIB_TRY_STATUS(allocate_weights(*shaped.specs, device));
  if (shaped.checkpoint) {
    NIB_TRY_STATUS(stream_weights(*shaped.checkpoint, shaped.bound, device, shaped.scales, progress));
  } else {
    fill_dummy(*shaped.specs, device);
  }
  shaped.model->build_tables(device.exec());
  return {};
}

}  // namespace

Result<std::unique_ptr<LoadableModel>> make_model(const formats::HfConfig& config,
                                                  const ModelOptions& options) {
  // Bounds the weight list, which has an entry per head and layer; a hundred times the largest model.
  constexpr std::int64_t kMaxHeads = std::int64_t{1} << 20;
  if (config.num_hidden_layers * config.num_attention_heads > kMaxHeads) {
    return unsupported(fmt::format(
        "config.json: num_hidden_layers {} x num_attention_heads {} is over the {} heads supported",
        config.num_hidden_layers, config.num_attention_heads, kMaxHeads));
  }
  for (const Family& family : kFamilies) {
    if (family.model_type == config.model_type) return family.make(config, options);
  }
  std::string known;
  for (const std::string_view type : supported_model_types())
    known += fmt::format("{}{}", known.empty() ? "" : ", ", type);
  return unsupported(fmt::format("config.json: model_type \"{}\"; supported: {}", config.model_type, known));
}

Result<std::unique_ptr<Model>> load_model(const LoadOptions& options, kernels::Device& device,
                                          const ProgressCallback& progress) {
  try {
    NIB_TRY(Shaped shaped, shape_model(options));
    NIB_TRY_STATUS(fill(shaped, device, progress));
    settle(shaped, device);
    return std::unique_ptr<Model>(std::move(shaped.model));
  } catch (const std::bad_alloc& e) {
    return no_memory(fmt::format("{}: no memory for the model",
                                 (options.dir.empty() ? options.config : options.dir).string()),
                     e);
  }
}

Result<ModelPlan> plan_model(const LoadOptions& options, const kernels::Device& device) {
  NIB_TRY(Shaped shaped, shape_model(options));
  ModelPlan plan;
  plan.weights = settle(shaped, device);
  plan.weight_bytes = shaped.model->info().weight_bytes;
  for (const layers::CacheSpec& spec : shaped.model->cache_specs()) {
    plan.cache_bytes_per_token += static_cast<std::uint64_t>(spec.bytes_per_entry()) *
                                  static_cast<std::uint64_t>(shaped.model->info().num_layers) /
                                  static_cast<std::uint64_t>(spec.tokens_per_entry);
  }
  plan.shape = std::move(shaped.model);
  return plan;
}

std::vector<std::string_view> supported_model_types() {
  std::vector<std::string_view> types;
  for (const Family& family : kFamilies) types.push_back(family.model_type);
  return types;
}

}  // namespace nibble::models
