#include "models/checkpoint_shape.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/quote.h"

namespace nibble::models {

std::int64_t min_num_tensors(const formats::HfConfig& config) {
  const std::int64_t moe_layers =
      std::max<std::int64_t>(0, config.num_hidden_layers - config.first_k_dense_replace);
  return config.num_hidden_layers * 8 + moe_layers * config.n_routed_experts * 3;
}

Result<CheckpointShape> shape_checkpoint(const std::filesystem::path& dir, const ModelOptions& options,
                                         const QuantConfig& quant) {
  NIB_TRY(formats::Checkpoint checkpoint, formats::Checkpoint::open(dir));
  const formats::HfConfig& config = checkpoint.config();
  const auto num_tensors = static_cast<std::int64_t>(checkpoint.tensors().size());
  // A list of every missing tensor is worth building only if it is not absurd.
  constexpr std::int64_t kMaxMissing = 100'000;
  if (min_num_tensors(config) > num_tensors + kMaxMissing) {
    return bad_input(fmt::format(
        "{}: config.json asks for at least {} tensors (num_hidden_layers {}, n_routed_experts {}), the "
        "checkpoint has {}",
        printable(dir.native(), 1024), min_num_tensors(config), config.num_hidden_layers,
        config.n_routed_experts, num_tensors));
  }
  NIB_TRY(std::unique_ptr<LoadableModel> model, make_model(config, options));
  auto specs = std::make_unique<std::vector<WeightSpec>>(model->weight_specs());
  NIB_TRY(BoundCheckpoint bound, bind_checkpoint(checkpoint, *specs, quant));
  std::vector<std::string>& notes = model->mutable_info().notes;
  notes.assign(checkpoint.notes().begin(), checkpoint.notes().end());
  notes.insert(notes.end(), bound.notes.begin(), bound.notes.end());
  return CheckpointShape{std::move(checkpoint), std::move(model), std::move(specs), std::move(bound)};
}

}  // namespace nibble::models
