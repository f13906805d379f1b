// inspect_checkpoint of nibble/checkpoint.h: the tensors of a directory, classified by binding them to the
// model they belong to.
#include <map>
#include <new>

#include "formats/checkpoint.h"
#include "models/checkpoint_shape.h"
#include "nibble/checkpoint.h"

namespace nibble {
namespace {

using models::Binding;
using models::CheckpointShape;

constexpr const char* kUnusedFormat = "unused";

std::vector<TensorSummary> list_tensors(const formats::Checkpoint& checkpoint) {
  std::vector<TensorSummary> list;
  list.reserve(checkpoint.tensors().size());
  for (const formats::TensorInfo& tensor : checkpoint.tensors()) {
    list.push_back({.name = tensor.name,
                    .dtype = std::string(dtype_name(tensor.dtype)),
                    .shape = tensor.shape,
                    .bytes = tensor.data.size(),
                    .file = checkpoint.files()[tensor.file_idx].filename().string()});
  }
  return list;
}

std::string format_of(const Binding& binding) {
  if (binding.spec->is_matrix()) return std::string(quant::format_name(binding.matrix.format));
  switch (binding.main_tensor().dtype) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    default: return "bf16";
  }
}

std::vector<FormatSummary> summarise_formats(const CheckpointShape& shape) {
  std::map<std::string, FormatSummary> rows;
  const auto add = [&](const std::string& format, std::int64_t parameters,
                       const std::vector<const formats::TensorInfo*>& tensors) {
    FormatSummary& row = rows[format];
    row.format = format;
    row.num_tensors += static_cast<std::int64_t>(tensors.size());
    row.num_parameters += parameters;
    for (const formats::TensorInfo* tensor : tensors) row.bytes += tensor->data.size();
  };
  for (const Binding& binding : shape.bound.bindings) {
    add(format_of(binding), binding.spec->num_parameters(), binding.tensors);
  }
  if (!shape.bound.ignored.empty()) add(kUnusedFormat, 0, shape.bound.ignored);
  std::vector<FormatSummary> list;
  for (auto& [format, row] : rows) list.push_back(std::move(row));
  return list;
}

}  // namespace

Result<CheckpointSummary> inspect_checkpoint(const std::filesystem::path& model_dir) {
  try {
    NIB_TRY(const CheckpointShape shape, models::shape_checkpoint(model_dir, {}));
    const formats::HfConfig& config = shape.checkpoint.config();
    CheckpointSummary summary{.model_type = config.model_type,
                              .architecture = config.architecture,
                              .quantization = config.quantization.description,
                              .num_layers = static_cast<std::int32_t>(config.num_hidden_layers),
                              .formats = summarise_formats(shape),
                              .tensors = list_tensors(shape.checkpoint),
                              .notes = shape.model->info().notes};
    for (const models::WeightSpec& spec : *shape.specs) summary.num_parameters += spec.num_parameters();
    for (const TensorSummary& tensor : summary.tensors) summary.bytes += tensor.bytes;
    return summary;
  } catch (const std::bad_alloc&) {
    return out_of_memory(model_dir.string() + ": no memory for its tensor list");
  }
}

}  // namespace nibble
