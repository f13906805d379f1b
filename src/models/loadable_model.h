// LoadableModel: a model that can be filled from outside: what the loader and the planner see of it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "formats/hf_config.h"
#include "models/model.h"
#include "models/weight_spec.h"
#include "nibble/result.h"

namespace nibble::models {

// Choices that are not in config.json.
struct ModelOptions {
  DType cache_dtype = DType::f32;
  std::int64_t max_model_len = 0;  // rope tables reach this far; 0 = max_position_embeddings
};

// Bytes of a packed weight: allocated, or as it would be.
using WeightBytes = std::function<std::size_t(const kernels::Weight&)>;

class LoadableModel : public Model {
 public:
  // Every tensor of the model. Pointers stay valid as long as the model.
  [[nodiscard]] virtual std::vector<WeightSpec> weight_specs() = 0;

  // Called once, when all formats are known: fills info() and the cost figures.
  virtual void settle_costs(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of) = 0;

  // Called once, before the first real forward. Throws std::bad_alloc.
  virtual void build_tables(kernels::Exec& exec) = 0;

  [[nodiscard]] virtual ModelInfo& mutable_info() = 0;

  // forward() in pieces, for calibration with one layer in memory at a time. hidden: [num_tokens,
  // hidden_size()] f32; batch.logit_rows is not looked at.
  [[nodiscard]] virtual std::int64_t hidden_size() const = 0;
  virtual void embed(layers::Context& ctx, const layers::ForwardBatch& batch, TensorView hidden) const = 0;
  virtual void forward_layer(layers::Context& ctx, const layers::ForwardBatch& batch,
                             const layers::CacheView& cache, std::int32_t layer_idx,
                             TensorView hidden) const = 0;
};

// Makes the model of config.model_type with shapes but no weights. unsupported for an unknown type or
// a value this implementation does not run.
Result<std::unique_ptr<LoadableModel>> make_model(const formats::HfConfig& config,
                                                  const ModelOptions& options);

}  // namespace nibble::models
