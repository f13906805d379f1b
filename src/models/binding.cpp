#include "models/binding.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "core/quote.h"
#include "models/gate_up_partner.h"

namespace nibble::models {
namespace {

using formats::Checkpoint;
using formats::TensorInfo;

constexpr std::size_t kMaxNamed = 12;

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Everything that does not fit, to be told at once.
struct Problems {
  std::vector<std::string> missing;
  std::vector<Error> unusable;
  std::vector<std::string> left_over;
  [[nodiscard]] bool none() const { return missing.empty() && unusable.empty() && left_over.empty(); }
};

// "2 tensors are missing: a, b"; at most kMaxNamed names.
std::string list_names(std::string_view what, const std::vector<std::string>& names) {
  std::string text = fmt::format("{} tensor{} {} {}", names.size(), names.size() == 1 ? "" : "s",
                                 names.size() == 1 ? "is" : "are", what);
  for (std::size_t i = 0; i < std::min(names.size(), kMaxNamed); ++i) {
    text += fmt::format("{} {}", i == 0 ? ":" : ",", names[i]);
  }
  if (names.size() > kMaxNamed) text += fmt::format(", and {} more", names.size() - kMaxNamed);
  return text;
}

Error describe(const Problems& problems, const Checkpoint& checkpoint) {
  const bool one_reason = problems.missing.empty() && problems.left_over.empty();
  if (one_reason && problems.unusable.size() == 1) return problems.unusable.front();
  std::string text =
      fmt::format("{}: the tensors do not fit config.json:", printable(checkpoint.dir().native(), 1024));
  if (!problems.missing.empty()) text += fmt::format(" {};", list_names("missing", problems.missing));
  if (!problems.left_over.empty()) {
    text += fmt::format(" {};", list_names("left over (no part of this architecture)", problems.left_over));
  }
  if (!problems.unusable.empty()) {
    text += fmt::format(" {} cannot be used:", problems.unusable.size());
    for (std::size_t i = 0; i < std::min(problems.unusable.size(), kMaxNamed); ++i) {
      text += fmt::format(" {};", problems.unusable[i].message);
    }
  }
  text.back() = '.';
  const bool all_unsupported =
      one_reason && std::all_of(problems.unusable.begin(), problems.unusable.end(),
                                [](const Error& e) { return e.code == ErrorCode::unsupported; });
  return {all_unsupported ? ErrorCode::unsupported : ErrorCode::bad_input, std::move(text)};
}

bool any_tensor_under(const Checkpoint& checkpoint, const std::string& prefix) {
  const auto tensors = checkpoint.tensors();
  const auto it =
      std::lower_bound(tensors.begin(), tensors.end(), prefix,
                       [](const TensorInfo& t, const std::string& name) { return t.name < name; });
  return it != tensors.end() && it->name.starts_with(prefix);
}

void bind_matrix(const Checkpoint& checkpoint, Binding& binding, Problems& problems) {
  const WeightSpec& spec = *binding.spec;
  if (!any_tensor_under(checkpoint, spec.name + ".")) {
    problems.missing.push_back(fmt::format("{} [{}, {}]", quote(spec.name + ".weight"), spec.n, spec.k));
    return;
  }
  auto source = formats::find_matrix(checkpoint, spec.name, spec.n, spec.k);
  if (!source.ok()) {
    problems.unusable.push_back(std::move(source).error());
    return;
  }
  binding.matrix = source->matrix;
  binding.tensors = std::move(source->tensors);
}

void bind_vector(const Checkpoint& checkpoint, Binding& binding, Problems& problems) {
  const WeightSpec& spec = *binding.spec;
  const TensorInfo* tensor = checkpoint.find(spec.name);
  if (tensor == nullptr) {
    problems.missing.push_back(fmt::format("{} [{}]", quote(spec.name), spec.vector->size));
    return;
  }
  const auto fail = [&](const std::string& text) {
    const std::string file = printable(checkpoint.files()[tensor->file_idx].native(), 1024);
    problems.unusable.push_back(bad_input(fmt::format("{}: tensor {}: {}", file, quote(tensor->name), text)));
  };
  if (tensor->shape.size() != 1 || tensor->shape[0] != spec.vector->size) {
    return fail(fmt::format("shape {}; expected [{}]", shape_text(tensor->shape), spec.vector->size));
  }
  if (tensor->dtype != DType::f32 && tensor->dtype != DType::bf16 && tensor->dtype != DType::f16) {
    return fail(fmt::format("dtype {}; expected F32, BF16 or F16", dtype_name(tensor->dtype)));
  }
  binding.tensors = {tensor};
}

// The layer a name belongs to: "model.layers.61.enorm.weight" -> 61.
std::optional<std::int64_t> layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* begin = name.data() + kPrefix.size();
  std::int64_t layer = 0;
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.' || layer < 0)
    return std::nullopt;
  return layer;
}

// Tensors that checkpoints carry and inference here has no use for.
struct IgnoredSuffix {
  std::string_view suffix;
  std::string_view why;
};
constexpr std::string_view kCacheScales =
    "static cache scales, of full keys and values; the cache holds latents and, in FP8, a scale for each "
    "token";
constexpr std::array kIgnoredSuffixes = {
    IgnoredSuffix{".rotary_emb.inv_freq", "rope frequencies are computed from config.json"},
    IgnoredSuffix{".k_scale", kCacheScales},
    IgnoredSuffix{".v_scale", kCacheScales},
    IgnoredSuffix{".kv_scale", kCacheScales},
    IgnoredSuffix{".kv_cache_scaling_factor", kCacheScales},
    IgnoredSuffix{".input_scale",
                  "static activation scales; schemes that quantise activations scale them token by token"},
    IgnoredSuffix{".input_global_scale",
                  "static activation scales; schemes that quantise activations scale them token by token"},
};

constexpr std::string_view kMtpReason = "multi-token prediction layers; the main model does not use them";
constexpr std::string_view kTiedReason = "tie_word_embeddings: the head shares the embedding's weight";

// Why a tensor nobody asked for may be ignored; nothing if it may not.
std::optional<std::string_view> reason_to_ignore(std::string_view name, const formats::HfConfig& config) {
  if (const std::optional<std::int64_t> layer = layer_of(name)) {
    const std::int64_t num_mtp = std::max<std::int64_t>(1, config.num_nextn_predict_layers);
    if (*layer >= config.num_hidden_layers && *layer < config.num_hidden_layers + num_mtp) return kMtpReason;
  }
  if (config.tie_word_embeddings && name == "lm_head.weight") return kTiedReason;
  for (const IgnoredSuffix& row : kIgnoredSuffixes) {
    if (name.ends_with(row.suffix)) return row.why;
  }
  return std::nullopt;
}

void sort_out_rest(const Checkpoint& checkpoint, BoundCheckpoint& bound, Problems& problems) {
  const auto tensors = checkpoint.tensors();
  std::vector<bool> used(tensors.size(), false);
  for (const Binding& binding : bound.bindings) {
    for (const TensorInfo* tensor : binding.tensors)
      used[static_cast<std::size_t>(tensor - tensors.data())] = true;
  }
  std::vector<std::pair<std::string_view, std::int64_t>> counts;  // reason, number of tensors
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (used[i]) continue;
    const auto reason = reason_to_ignore(tensors[i].name, checkpoint.config());
    if (!reason) {
      problems.left_over.push_back(formats::tensor_label(tensors[i]));
      continue;
    }
    bound.ignored.push_back(&tensors[i]);
    const auto it =
        std::find_if(counts.begin(), counts.end(), [&](const auto& c) { return c.first == *reason; });
    if (it == counts.end()) {
      counts.emplace_back(*reason, 1);
    } else {
      ++it->second;
    }
  }
  for (const auto& [reason, count] : counts) {
    bound.notes.push_back(fmt::format("{} tensor{} ignored: {}", count, count == 1 ? "" : "s", reason));
  }
}

// "int4, groups of 64, zero points".
std::string shape_format_text(const kernels::WeightShape& shape) {
  std::string text(quant::format_name(shape.format));
  if (shape.grouping.group_k != 0) text += fmt::format(", groups of {}", shape.grouping.group_k);
  if (shape.grouping.zero_points) text += ", zero points";
  if (shape.grouping.act_order) text += ", act-order";
  return text;
}

// What a matrix becomes under a scheme: format, grouping and activations of the weights it fills.
kernels::WeightShape wanted_shape(const Binding& binding, const std::optional<quant::Scheme>& scheme) {
  const WeightSpec& spec = *binding.spec;
  kernels::WeightShape shape{.format = binding.matrix.format, .grouping = binding.matrix.grouping};
  if (!scheme) return shape;
  shape.activations = scheme->activations;
  if (scheme->weights == shape.format) return shape;
  shape.format = scheme->weights;
  shape.grouping = scheme->grouping(spec.k);
  return shape;
}

bool same_treatment(const kernels::WeightShape& a, const kernels::WeightShape& b) {
  return a.format == b.format && a.grouping == b.grouping && a.activations == b.activations;
}

Status check_divides(const Checkpoint& checkpoint, const WeightSpec& spec,
                     const kernels::WeightShape& shape) {
  const quant::FormatRow& row = quant::format_row(shape.format);
  const std::int64_t unit = row.any_group || row.group_k == 0 ? row.codes_per_byte_group : row.group_k;
  if (spec.k % unit == 0) return {};
  return unsupported(
      fmt::format("{}: {} has {} inputs, which {} cannot hold: it needs a multiple of {}; exclude "
                  "the module or choose another scheme",
                  printable(checkpoint.dir().native(), 1024), quote(spec.name), spec.k, row.name, unit));
}

// A matrix and what it becomes.
struct Treated {
  const Binding& binding;
  const kernels::WeightShape& shape;
};

Error different(const Checkpoint& checkpoint, const Treated& a, const Treated& b, std::string_view what) {
  const auto text = [](const Treated& matrix) {
    return fmt::format("{} is {}", formats::tensor_label(matrix.binding.main_tensor()),
                       shape_format_text(matrix.shape));
  };
  return unsupported(fmt::format("{}: tensor {}, but {}; {} are computed together and need one format",
                                 printable(checkpoint.dir().native(), 1024), text(a), text(b), what));
}

// gate_proj and up_proj see one input, and those of experts run in one kernel.
bool may_share_input(LayerKind kind, const kernels::WeightShape& gate, const kernels::WeightShape& up) {
  if (gate.activations != up.activations) return false;
  return kind != LayerKind::experts ||
         (gate.format == up.format && gate.grouping.zero_points == up.grouping.zero_points &&
          gate.grouping.act_order == up.grouping.act_order);
}

Status check_gate_and_up(const Checkpoint& checkpoint, const std::vector<Binding>& bindings) {
  std::unordered_map<std::string_view, const Binding*> by_name;
  for (const Binding& binding : bindings) by_name.emplace(binding.spec->name, &binding);
  for (const Binding& gate : bindings) {
    if (!gate.spec->is_matrix() || !gate.spec->name.ends_with("gate_proj")) continue;
    const auto up = by_name.find(gate_up_partner(gate.spec->name));
    if (up == by_name.end()) continue;
    const Treated a{gate, gate.spec->blocks.front().weight->shape};
    const Treated b{*up->second, up->second->spec->blocks.front().weight->shape};
    if (!may_share_input(gate.spec->kind, a.shape, b.shape))
      return different(checkpoint, a, b, "gate and up");
  }
  return {};
}

// Gives every weight the format of the tensors that fill it, or the one asked for.
Status settle_formats(const Checkpoint& checkpoint, std::vector<Binding>& bindings,
                      const QuantConfig& quant) {
  std::unordered_map<const kernels::Weight*, const Binding*> first;
  for (Binding& binding : bindings) {
    if (!binding.spec->is_matrix()) continue;
    NIB_TRY(const std::optional<quant::Scheme> scheme,
            quant.scheme_of(binding.spec->kind, binding.spec->name, binding.matrix.format));
    const kernels::WeightShape wanted = wanted_shape(binding, scheme);
    binding.encode = wanted.format != binding.matrix.format;
    if (scheme) binding.target_group_k = scheme->group_k;
    NIB_TRY_STATUS(check_divides(checkpoint, *binding.spec, wanted));
    for (const RowBlock& block : binding.spec->blocks) {
      kernels::WeightShape& shape = block.weight->shape;
      const auto [it, is_new] = first.emplace(block.weight, &binding);
      if (is_new) {
        shape.format = wanted.format;
        shape.grouping = wanted.grouping;
        shape.activations = wanted.activations;
      } else if (!same_treatment(shape, wanted)) {
        return different(checkpoint, {binding, wanted}, {*it->second, shape}, "the experts of a layer");
      }
    }
  }
  return check_gate_and_up(checkpoint, bindings);
}

}  // namespace

Result<BoundCheckpoint> bind_checkpoint(const Checkpoint& checkpoint, const std::vector<WeightSpec>& specs,
                                        const QuantConfig& quant) {
  BoundCheckpoint bound;
  Problems problems;
  bound.bindings.reserve(specs.size());
  for (const WeightSpec& spec : specs) {
    Binding& binding = bound.bindings.emplace_back(Binding{.spec = &spec});
    spec.is_matrix() ? bind_matrix(checkpoint, binding, problems)
                     : bind_vector(checkpoint, binding, problems);
  }
  // Tensors of a module that could not be used are not "left over" as well: say so only when the rest fits.
  if (problems.unusable.empty()) sort_out_rest(checkpoint, bound, problems);
  if (!problems.none()) return describe(problems, checkpoint);
  NIB_TRY_STATUS(settle_formats(checkpoint, bound.bindings, quant));
  return bound;
}

}  // namespace nibble::models
