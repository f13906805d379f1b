#include "models/quantize/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "core/quote.h"
#include "models/gate_up_partner.h"
#include "models/quantize/claim.h"
#include "quant/int_packing.h"

namespace nibble::models {
namespace {

using formats::Checkpoint;
using formats::QuantMethod;
using formats::TensorInfo;
using quant::MatrixView;
using quant::WeightFormat;
using Action = QuantizeItem::Action;

constexpr std::string_view kGptq = "gptq";

bool wants_gptq(const QuantizeOptions& options, LayerKind kind) {
  const auto chosen = [&](const std::string& own) { return (own.empty() ? options.format : own) == kGptq; };
  switch (kind) {
    case LayerKind::attn: return chosen(options.attn);
    case LayerKind::mlp: return chosen(options.mlp);
    case LayerKind::experts: return chosen(options.experts);
    case LayerKind::other: return false;
  }
  return false;
}

bool wants_gptq(const QuantizeOptions& options) {
  return wants_gptq(options, LayerKind::attn) || wants_gptq(options, LayerKind::mlp) ||
         wants_gptq(options, LayerKind::experts);
}

// Activations are quantised while running; the file says nothing about them.
Status check_scheme(std::string_view option, const std::string& name) {
  if (name.empty() || name == "auto" || name == kGptq) return {};
  NIB_TRY(const quant::Scheme scheme, quant::find_scheme(name));
  if (scheme.activations == quant::ActivationFormat::none) return {};
  return unsupported(fmt::format(
      "{} {}: activations are quantised while running, a checkpoint holds weights only; write {} and run it "
      "with --quantization {}",
      option, name, quant::format_name(scheme.weights), name));
}

Status check_gptq(const QuantizeOptions& options) {
  const GptqSettings& gptq = options.gptq;
  if (options.other == kGptq) {
    return unsupported(
        "--other gptq: GPTQ quantises the projections of attention, MLPs and experts; leave embedding and "
        "head "
        "as they are");
  }
  if (!wants_gptq(options)) {
    return gptq.calibration.empty() ? Status() : bad_input("a calibration text is for --format gptq only");
  }
  if (gptq.calibration.empty())
    return bad_input("format gptq needs a calibration text (--calibration); name a text file");
  if (gptq.bits != 4 && gptq.bits != 8)
    return unsupported(fmt::format("gptq with {} bits; supported: 4, 8", gptq.bits));
  if (gptq.group_size != quant::kWholeRow && (gptq.group_size <= 0 || gptq.group_size % 32 != 0)) {
    return bad_input(
        fmt::format("gptq with groups of {}; expected a multiple of 32, or {} for one scale per row",
                    gptq.group_size, quant::kWholeRow));
  }
  if (gptq.window < 1) return bad_input(fmt::format("a calibration window of {} tokens", gptq.window));
  if (!(gptq.damp_percent > 0.0 && gptq.damp_percent <= 1.0)) {
    return bad_input(
        fmt::format("gptq with a damping of {}; expected a part from above 0 to 1", gptq.damp_percent));
  }
  return {};
}

Status check_options(const QuantizeOptions& options) {
  NIB_TRY_STATUS(check_scheme("--format", options.format));
  NIB_TRY_STATUS(check_scheme("--attn", options.attn));
  NIB_TRY_STATUS(check_scheme("--mlp", options.mlp));
  NIB_TRY_STATUS(check_scheme("--experts", options.experts));
  NIB_TRY_STATUS(check_scheme("--other", options.other));
  NIB_TRY_STATUS(check_gptq(options));
  const auto as_stored = [](const std::string& name) { return name.empty() || name == "auto"; };
  if (as_stored(options.format) && as_stored(options.attn) && as_stored(options.mlp) &&
      as_stored(options.experts) && as_stored(options.other)) {
    return bad_input("no format given (--format); name one, or one per kind of layer (--experts ...)");
  }
  return {};
}

// GPTQ is a way to find integers, not a format of its own.
Result<QuantConfig> quant_config(const QuantizeOptions& options) {
  const auto stored = [&](const std::string& name) {
    return name == kGptq ? std::string(options.gptq.bits == 8 ? "int8" : "int4") : name;
  };
  return QuantConfig::resolve({.quantization = stored(options.format),
                               .attn = stored(options.attn),
                               .mlp = stored(options.mlp),
                               .experts = stored(options.experts),
                               .other = options.other,
                               .search_scales = options.search_scales,
                               .exclude = options.exclude});
}

// The shape of what the encoder will make: what matrix_tensors looks at.
MatrixView encoded_shape(const Binding& binding) {
  const kernels::WeightShape& wanted = binding.spec->blocks.front().weight->shape;
  MatrixView view{.format = wanted.format, .n = binding.spec->n, .k = binding.spec->k};
  view.grouping = wanted.grouping;
  switch (wanted.format) {
    case WeightFormat::mxfp4: view.scale_dtype = DType::f8_e8m0; break;
    case WeightFormat::nvfp4: view.scale_dtype = DType::f8_e4m3; break;
    case WeightFormat::int8:
    case WeightFormat::int4: view.scale_dtype = DType::bf16; break;
    default: view.scale_dtype = DType::f32;
  }
  return view;
}

bool is_plain(WeightFormat format) { return quant::format_row(format).group_k == 0; }

std::optional<WeightFormat> plain_format(DType dtype) {
  switch (dtype) {
    case DType::f32: return WeightFormat::f32;
    case DType::f16: return WeightFormat::f16;
    case DType::bf16: return WeightFormat::bf16;
    default: return std::nullopt;
  }
}

// A plain vector as a matrix of one row.
MatrixView vector_row(const TensorInfo& tensor) {
  return {.format = plain_format(tensor.dtype).value_or(WeightFormat::f32),
          .n = 1,
          .k = tensor.shape.front(),
          .codes = tensor.data.data()};
}

// Collects the items of one checkpoint.
class Planner {
 public:
  Planner(QuantizePlan& plan, const QuantizeOptions& options)
      : plan_(plan), checkpoint_(plan.shape.checkpoint), options_(options) {}

  Status run() {
    for (const Binding& binding : plan_.shape.bound.bindings) {
      if (binding.spec->is_matrix()) layers_.add(*binding.spec, final_format(binding));
    }
    NIB_TRY_STATUS(check_one_gptq());
    plan_.claim = layers_.claim(checkpoint_.config(), has_mtp(), gptq_claim());
    for (const Binding& binding : plan_.shape.bound.bindings) NIB_TRY_STATUS(add_binding(binding));
    NIB_TRY_STATUS(add_ignored());
    sort_items();
    for (QuantizeItem& item : plan_.items) set_partner(item);
    make_shards();
    return {};
  }

 private:
  static WeightFormat final_format(const Binding& binding) {
    return binding.encode ? binding.spec->blocks.front().weight->shape.format : binding.matrix.format;
  }

  [[nodiscard]] std::optional<formats::GptqClaim> gptq_claim() const {
    if (!wants_gptq(options_)) return std::nullopt;
    const GptqSettings& gptq = options_.gptq;
    return formats::GptqClaim{.bits = gptq.bits,
                              .group_size = gptq.group_size,
                              .zero_points = gptq.zero_points,
                              .act_order = gptq.act_order,
                              .damp_percent = gptq.damp_percent};
  }

  [[nodiscard]] bool is_gptq(const Binding& binding) const {
    return binding.encode && wants_gptq(options_, binding.spec->kind);
  }

  // A GPTQ configuration has room for nothing else that is quantised.
  Status check_one_gptq() const {
    if (!wants_gptq(options_)) return {};
    for (const Binding& binding : plan_.shape.bound.bindings) {
      if (!binding.spec->is_matrix() || is_plain(final_format(binding)) || is_gptq(binding)) continue;
      return refuse(
          binding.spec->name,
          fmt::format("would be {} beside layers in gptq, which no configuration can express; choose "
                      "bf16 for it",
                      quant::format_name(final_format(binding))));
    }
    return {};
  }

  [[nodiscard]] bool has_mtp() const {
    return std::any_of(
        plan_.shape.bound.ignored.begin(), plan_.shape.bound.ignored.end(),
        [](const TensorInfo* t) { return t->name.starts_with("model.layers.") && t->shape.size() == 2; });
  }

  [[nodiscard]] Error refuse(std::string_view name, std::string_view text) const {
    return unsupported(
        fmt::format("{}: {}: {}", printable(checkpoint_.dir().native(), 1024), quote(name), text));
  }

  void add_copy(const TensorInfo& tensor) {
    QuantizeItem item{.action = Action::copy, .name = tensor.name, .tensors = {&tensor}};
    item.outputs = {{tensor.name, tensor.dtype, tensor.shape}};
    plan_.items.push_back(std::move(item));
  }

  Status add_binding(const Binding& binding) {
    if (!binding.spec->is_matrix() || (!binding.encode && is_plain(binding.matrix.format))) {
      add_copy(binding.main_tensor());
      plan_.items.back().matrix =
          binding.spec->is_matrix() ? binding.matrix : vector_row(binding.main_tensor());
      return {};
    }
    QuantizeItem item{.action = binding.encode ? Action::encode : Action::respell,
                      .name = binding.spec->name,
                      .matrix = binding.matrix,
                      .tensors = binding.tensors};
    if (is_gptq(binding)) {
      NIB_TRY_STATUS(settle_gptq(binding, item));
    } else if (binding.encode) {
      const kernels::WeightShape& wanted = binding.spec->blocks.front().weight->shape;
      // As WeightPacker does it while loading: the same rows through the same encoder.
      item.options = {.format = wanted.format,
                      .group_k = quant::format_row(wanted.format).any_group ? binding.target_group_k : 0,
                      .scales = scale_rule()};
      item.outputs = formats::matrix_tensors(item.name, encoded_shape(binding), plan_.claim.method);
    } else {
      if (const std::string why = formats::why_unspellable(item.matrix); !why.empty()) {
        return refuse(item.name,
                      fmt::format("is stored in {} and would stay so, but {}, which no configuration "
                                  "that nibble writes can express; choose another format for it",
                                  quant::format_name(item.matrix.format), why));
      }
      item.outputs = formats::matrix_tensors(item.name, item.matrix, plan_.claim.method);
    }
    plan_.items.push_back(std::move(item));
    return {};
  }

  Status settle_gptq(const Binding& binding, QuantizeItem& item) const {
    const GptqSettings& gptq = options_.gptq;
    item.action = Action::gptq;
    item.layer_idx = layer_of(item.name);
    item.options = {.format = gptq.bits == 8 ? WeightFormat::int8 : WeightFormat::int4,
                    .group_k = gptq.group_size,
                    .scale_dtype = DType::f16,
                    .scales = scale_rule(),
                    .zero_points = gptq.zero_points};
    MatrixView made{.format = item.options.format, .n = binding.spec->n, .k = binding.spec->k};
    made.grouping = {.group_k = gptq.group_size < 0 ? made.k : gptq.group_size,
                     .zero_points = gptq.zero_points};
    made.scale_dtype = DType::f16;
    if (const auto fits = quant::packed_bytes(made, quant::MatrixLayout::gptq); !fits.ok())
      return refuse(item.name, fits.error().message + "; exclude the module or choose another format");
    item.outputs = formats::matrix_tensors(item.name, made, QuantMethod::gptq);
    return {};
  }

  // -1 for what is in no layer.
  static std::int32_t layer_of(std::string_view name) {
    constexpr std::string_view kPrefix = "model.layers.";
    std::int32_t layer = -1;
    if (name.starts_with(kPrefix))
      std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
    return layer;
  }

  [[nodiscard]] quant::ScaleRule scale_rule() const {
    return options_.search_scales ? quant::ScaleRule::searched : quant::ScaleRule::plain;
  }

  // Tensors that inference has no use for: the MTP layer, cache scales. Quantised ones keep their bytes only
  // if the configuration goes on describing them.
  Status add_ignored() {
    const bool same_method =
        plan_.claim.method == QuantMethod::fp8 && checkpoint_.config().quantization.method == "fp8";
    for (const TensorInfo* tensor : plan_.shape.bound.ignored) {
      if (same_method || !is_quantized(*tensor)) {
        add_copy(*tensor);
      } else if (tensor->name.ends_with(".weight")) {
        NIB_TRY_STATUS(add_dequantized(*tensor));
      } else if (!is_scale(tensor->name)) {
        return refuse(tensor->name,
                      "multi-token prediction weights in this format cannot be dequantised; only "
                      "FP8 ones can");
      }
    }
    return {};
  }

  static bool is_scale(std::string_view name) {
    return name.ends_with(".weight_scale_inv") || name.ends_with(".weight_scale") || name.ends_with(".scale");
  }

  // A quantised weight or a scale of one.
  [[nodiscard]] bool is_quantized(const TensorInfo& tensor) const {
    if (tensor.shape.size() != 2) return false;
    if (is_scale(tensor.name)) {
      const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
      const TensorInfo* weight = checkpoint_.find(module + ".weight");
      return weight == nullptr || !plain_format(weight->dtype);
    }
    return !plain_format(tensor.dtype);
  }

  Status add_dequantized(const TensorInfo& weight) {
    if (weight.dtype != DType::f8_e4m3) {
      return refuse(weight.name,
                    "multi-token prediction weights in this format cannot be dequantised; only FP8 "
                    "ones can");
    }
    const std::string module = weight.name.substr(0, weight.name.rfind('.'));
    NIB_TRY(formats::MatrixSource source,
            formats::find_matrix(checkpoint_, module, weight.shape[0], weight.shape[1]));
    QuantizeItem item{.action = Action::encode,
                      .name = module,
                      .matrix = source.matrix,
                      .tensors = std::move(source.tensors),
                      .options = {.format = WeightFormat::bf16}};
    item.outputs = {{weight.name, DType::bf16, weight.shape}};
    plan_.items.push_back(std::move(item));
    return {};
  }

  void sort_items() {
    const bool by_layer = wants_gptq(options_);
    std::sort(plan_.items.begin(), plan_.items.end(), [&](const QuantizeItem& a, const QuantizeItem& b) {
      if (by_layer && layer_of(a.name) != layer_of(b.name)) return layer_of(a.name) < layer_of(b.name);
      const TensorInfo& x = *a.tensors.front();
      const TensorInfo& y = *b.tensors.front();
      if (x.file_idx != y.file_idx) return x.file_idx < y.file_idx;
      // Empty tensors lie where the next one begins.
      return x.data.data() != y.data.data() ? x.data.data() < y.data.data() : a.name < b.name;
    });
  }

  void set_partner(QuantizeItem& item) {
    if (item.action != Action::encode || item.options.format != WeightFormat::nvfp4) return;
    const std::string name = gate_up_partner(item.name);
    if (name.empty()) return;
    const auto& bindings = plan_.shape.bound.bindings;
    if (matrices_.empty()) {
      for (const Binding& binding : bindings) matrices_.emplace(binding.spec->name, &binding);
    }
    const auto it = matrices_.find(name);
    if (it != matrices_.end() && it->second->spec->is_matrix()) item.partner = it->second;
  }

  void make_shards() {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < plan_.items.size(); ++i) {
      const std::uint64_t more = plan_.items[i].output_bytes();
      if (plan_.shards.empty() || (bytes > 0 && bytes + more > options_.max_shard_bytes)) {
        plan_.shards.emplace_back();
        bytes = 0;
      }
      plan_.shards.back().items.push_back(i);
      bytes += more;
    }
    for (std::size_t i = 0; i < plan_.shards.size(); ++i) {
      plan_.shards[i].file = plan_.shards.size() == 1 ? "model.safetensors"
                                                      : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1,
                                                                    plan_.shards.size());
    }
  }

  QuantizePlan& plan_;
  const Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  LayerFormats layers_;
  std::unordered_map<std::string_view, const Binding*> matrices_;
};

}  // namespace

std::uint64_t QuantizeItem::source_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const TensorInfo* tensor : tensors) bytes += tensor->data.size();
  return bytes;
}

std::uint64_t QuantizeItem::output_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const formats::TensorHeader& output : outputs) bytes += output.num_bytes();
  return bytes;
}

Result<QuantizePlan> plan_quantization(const QuantizeOptions& options) {
  NIB_TRY_STATUS(check_options(options));
  NIB_TRY(const QuantConfig quant, quant_config(options));
  NIB_TRY(CheckpointShape shape, shape_checkpoint(options.source, {}, quant));
  QuantizePlan plan{.shape = std::move(shape)};
  NIB_TRY_STATUS(Planner(plan, options).run());
  return plan;
}

}  // namespace nibble::models
