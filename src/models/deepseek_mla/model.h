// DeepseekMla: the network DeepSeek-V2 and V3 share: embedding, decoder layers with MLA and DeepSeekMoE,
// final norm, head. What differs between them is data: see deepseek_v2/ and deepseek_v3/.
#pragma once

#include <span>
#include <vector>

#include "layers/embedding.h"
#include "layers/lm_head.h"
#include "layers/rms_norm.h"
#include "layers/rope.h"
#include "models/costs.h"
#include "models/deepseek_mla/decoder_layer.h"
#include "models/loadable_model.h"

namespace nibble::models::deepseek_mla {

class DeepseekMla final : public LoadableModel {
 public:
  // `config` is validated; `router` is the family's reading of it (unused if every layer is dense).
  DeepseekMla(const formats::HfConfig& config, const layers::RouterConfig& router,
              const ModelOptions& options);
  // Layers are pointed at by weight lists, and the head may be tied to the embedding.
  DeepseekMla(const DeepseekMla&) = delete;
  DeepseekMla& operator=(const DeepseekMla&) = delete;

  [[nodiscard]] const ModelInfo& info() const override { return info_; }
  [[nodiscard]] std::span<const layers::CacheSpec> cache_specs() const override { return {&cache_spec_, 1}; }
  void forward(layers::Context& ctx, const layers::ForwardBatch& batch, const layers::CacheView& cache,
               TensorView logits) const override;
  [[nodiscard]] ActiveBytes active_bytes(std::int64_t num_tokens, std::int64_t context_len) const override {
    return models::active_bytes(costs_, num_tokens, context_len);
  }
  [[nodiscard]] double prefill_flops(std::int64_t num_tokens) const override {
    return models::prefill_flops(costs_, num_tokens);
  }

  [[nodiscard]] std::vector<WeightSpec> weight_specs() override;
  void settle_costs(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of) override;
  void build_tables(kernels::Exec& exec) override { rope_.build_tables(info_.max_position_embeddings, exec); }
  [[nodiscard]] ModelInfo& mutable_info() override { return info_; }
  [[nodiscard]] std::int64_t hidden_size() const override { return embed_tokens_.table().shape.k; }
  void embed(layers::Context& ctx, const layers::ForwardBatch& batch, TensorView hidden) const override;
  void forward_layer(layers::Context& ctx, const layers::ForwardBatch& batch, const layers::CacheView& cache,
                     std::int32_t layer_idx, TensorView hidden) const override;

 private:
  void write_logits(layers::Context& ctx, const layers::ForwardBatch& batch,
                    const layers::ResidualStream& stream, TensorView logits) const;

  ModelInfo info_;
  layers::CacheSpec cache_spec_;
  layers::Rope rope_;
  layers::Embedding embed_tokens_;
  std::vector<DecoderLayer> layers_;
  layers::RmsNorm norm_;
  layers::LmHead lm_head_;
  ModelCosts costs_;
};

}  // namespace nibble::models::deepseek_mla
