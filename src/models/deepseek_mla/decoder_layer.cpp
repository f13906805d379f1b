#include "models/deepseek_mla/decoder_layer.h"

#include <fmt/format.h>

namespace nibble::models::deepseek_mla {

DecoderLayer::DecoderLayer(std::int32_t layer_idx, const layers::MlaConfig& attention, float rms_norm_eps,
                           std::int64_t intermediate_size)
    : layer_idx_(layer_idx),
      input_layernorm_(attention.hidden_size, rms_norm_eps),
      self_attn_(attention),
      post_attention_layernorm_(attention.hidden_size, rms_norm_eps),
      mlp_(layers::GatedMlp(attention.hidden_size, intermediate_size)) {}

DecoderLayer::DecoderLayer(std::int32_t layer_idx, const layers::MlaConfig& attention, float rms_norm_eps,
                           const MoeConfig& moe)
    : layer_idx_(layer_idx),
      input_layernorm_(attention.hidden_size, rms_norm_eps),
      self_attn_(attention),
      post_attention_layernorm_(attention.hidden_size, rms_norm_eps),
      mlp_(Moe(moe)) {}

void DecoderLayer::forward(layers::Context& ctx, const layers::ForwardBatch& batch, const layers::Rope& rope,
                           const layers::CacheView& cache, layers::ResidualStream& stream) const {
  const ArenaScope scope(ctx.arena);
  const TensorView out = stream.delta();
  const TensorView normed = ctx.arena.tensor(DType::f32, {out.dim(0), out.dim(1)});
  stream.norm(ctx, input_layernorm_, normed);
  self_attn_.forward(ctx, batch, rope, cache.layer(layer_idx_), cache.page_size, normed, out);
  ctx.comm.all_reduce_sum(out);
  if (ctx.trace != nullptr) ctx.trace->record("attn_out", layer_idx_, out);
  stream.set_pending();
  stream.norm(ctx, post_attention_layernorm_, normed);
  if (const auto* moe = std::get_if<Moe>(&mlp_)) {
    moe->forward(ctx, layer_idx_, normed, stream);
  } else {
    std::get<layers::GatedMlp>(mlp_).forward(ctx, normed, out);
    ctx.comm.all_reduce_sum(out);
    stream.set_pending();
  }
  if (ctx.trace != nullptr) ctx.trace->record("hidden_states", layer_idx_, stream.settled(ctx));
}

void DecoderLayer::append_specs(std::vector<WeightSpec>& specs) {
  const std::string prefix = fmt::format("model.layers.{}.", layer_idx_);
  specs.push_back(
      vector_spec(prefix + "input_layernorm.weight", LayerKind::other, input_layernorm_.weight()));
  append_attention_specs(specs, prefix + "self_attn.");
  specs.push_back(vector_spec(prefix + "post_attention_layernorm.weight", LayerKind::other,
                              post_attention_layernorm_.weight()));
  if (auto* moe = std::get_if<Moe>(&mlp_)) {
    moe->append_specs(specs, prefix + "mlp.");
  } else {
    append_mlp_specs(specs, prefix + "mlp.", std::get<layers::GatedMlp>(mlp_));
  }
}

void DecoderLayer::append_attention_specs(std::vector<WeightSpec>& specs, const std::string& prefix) {
  layers::MlaWeights& w = self_attn_.weights();
  const auto matrix = [&](const char* name, ShardRule shard, layers::Linear& linear) {
    specs.push_back(matrix_spec(prefix + name, LayerKind::attn, shard, linear.weight()));
  };
  const auto vector = [&](const char* name, layers::RmsNorm& norm) {
    specs.push_back(vector_spec(prefix + name, LayerKind::other, norm.weight()));
  };
  if (w.q_proj) {
    matrix("q_proj", ShardRule::column, *w.q_proj);
  } else {
    matrix("q_a_proj", ShardRule::replicate, *w.q_a_proj);
    vector("q_a_layernorm.weight", *w.q_a_layernorm);
    matrix("q_b_proj", ShardRule::column, *w.q_b_proj);
  }
  matrix("kv_a_proj_with_mqa", ShardRule::replicate, w.kv_a_proj_with_mqa);
  vector("kv_a_layernorm.weight", w.kv_a_layernorm);

  // kv_b_proj's rows: per head first W_UK, then W_UV.
  const layers::MlaConfig& config = self_attn_.config();
  const std::int64_t head_rows = config.qk_nope_head_dim + config.v_head_dim;
  WeightSpec kv_b{.name = prefix + "kv_b_proj",
                  .kind = LayerKind::attn,
                  .shard = ShardRule::column,
                  .n = config.num_attention_heads * head_rows,
                  .k = config.kv_lora_rank};
  for (std::int64_t h = 0; h < config.num_attention_heads; ++h) {
    kv_b.blocks.push_back(
        {.weight = &w.w_uk, .group = h, .src_row = h * head_rows, .rows = config.qk_nope_head_dim});
    kv_b.blocks.push_back({.weight = &w.w_uv,
                           .group = h,
                           .src_row = h * head_rows + config.qk_nope_head_dim,
                           .rows = config.v_head_dim});
  }
  specs.push_back(std::move(kv_b));
  matrix("o_proj", ShardRule::row, w.o_proj);
}

}  // namespace nibble::models::deepseek_mla
