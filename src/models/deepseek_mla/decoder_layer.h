// The decoder layer of DeepSeek-V2 and V3: norm, MLA, residual, norm, gated MLP or mixture of experts,
// residual.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "layers/context.h"
#include "layers/gated_mlp.h"
#include "layers/mla_attention.h"
#include "layers/residual.h"
#include "layers/rms_norm.h"
#include "layers/rope.h"
#include "models/deepseek_mla/moe.h"
#include "models/weight_spec.h"

namespace nibble::models::deepseek_mla {

class DecoderLayer {
 public:
  // A dense layer.
  DecoderLayer(std::int32_t layer_idx, const layers::MlaConfig& attention, float rms_norm_eps,
               std::int64_t intermediate_size);
  // A mixture-of-experts layer.
  DecoderLayer(std::int32_t layer_idx, const layers::MlaConfig& attention, float rms_norm_eps,
               const MoeConfig& moe);

  void forward(layers::Context& ctx, const layers::ForwardBatch& batch, const layers::Rope& rope,
               const layers::CacheView& cache, layers::ResidualStream& stream) const;

  void append_specs(std::vector<WeightSpec>& specs);

 private:
  void append_attention_specs(std::vector<WeightSpec>& specs, const std::string& prefix);

  std::int32_t layer_idx_;
  layers::RmsNorm input_layernorm_;
  layers::MlaAttention self_attn_;
  layers::RmsNorm post_attention_layernorm_;
  std::variant<layers::GatedMlp, Moe> mlp_;
};

}  // namespace nibble::models::deepseek_mla
