// Model: what the engine knows of a network. forward is pure with respect to the model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layers/context.h"

namespace nibble::models {

struct ModelInfo {
  std::string model_type;  // "deepseek_v3"
  std::int32_t vocab_size = 0;
  std::int32_t max_position_embeddings = 0;  // positions forward can be given
  std::int32_t num_layers = 0;
  std::int64_t num_parameters = 0;  // of the tensors in use
  std::size_t weight_bytes = 0;     // packed, on the device
  std::string formats;              // for people: "bf16", "mxfp4 experts, bf16 rest"
  std::vector<std::int32_t> eos_token_ids;
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::string> notes;  // what was left out or is odd: "MTP layer skipped", dummy weights, ...
};

// Bytes one decode step of `num_tokens` tokens at context `context_len` must read: weights of every layer
// once, of the experts as many as uniform routing hits on average, cache entries. Basis of GB/s figures.
struct ActiveBytes {
  std::size_t weights = 0;
  std::size_t cache = 0;
  [[nodiscard]] std::size_t total() const { return weights + cache; }
};

class Model {
 public:
  virtual ~Model() = default;
  [[nodiscard]] virtual const ModelInfo& info() const = 0;
  // Cache entries every layer keeps; the same for all layers.
  [[nodiscard]] virtual std::span<const layers::CacheSpec> cache_specs() const = 0;
  // logits: [batch.logit_rows.size(), vocab_size] f32.
  virtual void forward(layers::Context& ctx, const layers::ForwardBatch& batch,
                       const layers::CacheView& cache, TensorView logits) const = 0;
  [[nodiscard]] virtual ActiveBytes active_bytes(std::int64_t num_tokens, std::int64_t context_len) const = 0;
  // Floating-point operations (multiply and add count two) of a prefill of num_tokens from position 0.
  [[nodiscard]] virtual double prefill_flops(std::int64_t num_tokens) const = 0;
};

}  // namespace nibble::models
