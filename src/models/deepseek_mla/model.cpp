#include "models/deepseek_mla/model.h"

#include <algorithm>

#include "kernels/cache_layout.h"
#include "models/deepseek_mla/config.h"

namespace nibble::models::deepseek_mla {
namespace {

// A rope table takes 4 * qk_rope_head_dim bytes per position whether or not it is used, so a config
// that promises more context than any published model gets this much until somebody asks for more.
constexpr std::int64_t kMaxUnaskedPositions = std::int64_t{1} << 20;

std::int64_t max_positions(const formats::HfConfig& config, const ModelOptions& options) {
  const std::int64_t wanted = options.max_model_len > 0 ? options.max_model_len : kMaxUnaskedPositions;
  return std::min(wanted, config.max_position_embeddings);
}

}  // namespace

DeepseekMla::DeepseekMla(const formats::HfConfig& config, const layers::RouterConfig& router,
                         const ModelOptions& options)
    : info_{.model_type = config.model_type,
            .vocab_size = static_cast<std::int32_t>(config.vocab_size),
            .max_position_embeddings = static_cast<std::int32_t>(max_positions(config, options)),
            .num_layers = static_cast<std::int32_t>(config.num_hidden_layers),
            .eos_token_ids = config.eos_token_ids,
            .bos_token_id = config.bos_token_id},
      cache_spec_{
          .name = "latent",
          .tokens_per_entry = 1,
          .window = 0,
          .width = kernels::cache_width(options.cache_dtype, config.kv_lora_rank, config.qk_rope_head_dim),
          .dtype = options.cache_dtype},
      rope_(rope_config(config)),
      embed_tokens_(config.vocab_size, config.hidden_size),
      norm_(config.hidden_size, static_cast<float>(config.rms_norm_eps)),
      lm_head_(config.tie_word_embeddings ? layers::LmHead(embed_tokens_)
                                          : layers::LmHead(config.vocab_size, config.hidden_size)) {
  const layers::MlaConfig attention = mla_config(config);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  const MoeConfig moe = moe_config(config, router);
  layers_.reserve(static_cast<std::size_t>(config.num_hidden_layers));
  for (std::int32_t i = 0; i < info_.num_layers; ++i) {
    if (is_moe_layer(config, i)) {
      layers_.emplace_back(i, attention, eps, moe);
      costs_.num_experts = config.n_routed_experts;
      costs_.topk = config.num_experts_per_tok;
    } else {
      layers_.emplace_back(i, attention, eps, config.intermediate_size);
    }
  }
  costs_.cache_token_bytes =
      static_cast<std::size_t>(cache_spec_.bytes_per_entry() * config.num_hidden_layers);
  costs_.attention_mults_per_pair = static_cast<double>(config.num_hidden_layers) *
                                    static_cast<double>(config.num_attention_heads) *
                                    static_cast<double>(attention.qk_head_dim() + attention.v_head_dim);
}

void DeepseekMla::forward(layers::Context& ctx, const layers::ForwardBatch& batch,
                          const layers::CacheView& cache, TensorView logits) const {
  const ArenaScope scope(ctx.arena);
  const TensorView hidden = ctx.arena.tensor(DType::f32, {batch.num_tokens(), hidden_size()});
  embed(ctx, batch, hidden);
  if (ctx.trace != nullptr) ctx.trace->record("hidden_states", -1, hidden);
  layers::ResidualStream stream(hidden, ctx.arena.tensor(DType::f32, {hidden.dim(0), hidden.dim(1)}));
  const auto end_layer = [&](std::int32_t layer_idx) {
    if (ctx.after_layer != nullptr) (*ctx.after_layer)(layer_idx);
  };
  end_layer(-1);
  for (std::int32_t i = 0; i < info_.num_layers; ++i) {
    layers_[static_cast<std::size_t>(i)].forward(ctx, batch, rope_, cache, stream);
    end_layer(i);
  }
  write_logits(ctx, batch, stream, logits);
}

void DeepseekMla::embed(layers::Context& ctx, const layers::ForwardBatch& batch, TensorView hidden) const {
  embed_tokens_.forward(ctx, batch.arrays().token_ids, hidden);
}

void DeepseekMla::forward_layer(layers::Context& ctx, const layers::ForwardBatch& batch,
                                const layers::CacheView& cache, std::int32_t layer_idx,
                                TensorView hidden) const {
  const ArenaScope scope(ctx.arena);
  layers::ResidualStream stream(hidden, ctx.arena.tensor(DType::f32, {hidden.dim(0), hidden.dim(1)}));
  layers_[static_cast<std::size_t>(layer_idx)].forward(ctx, batch, rope_, cache, stream);
  stream.settled(ctx);
}

void DeepseekMla::write_logits(layers::Context& ctx, const layers::ForwardBatch& batch,
                               const layers::ResidualStream& stream, TensorView logits) const {
  const ArenaScope scope(ctx.arena);
  const auto num_logits = static_cast<std::int64_t>(batch.logit_rows.size());
  if (num_logits == 0) return;
  const TensorView normed = ctx.arena.tensor(DType::f32, {num_logits, hidden_size()});
  // The final norm also gathers: one call for each run of neighbouring rows.
  for (std::int64_t i = 0; i < num_logits;) {
    const std::int64_t first = batch.logit_rows[static_cast<std::size_t>(i)];
    std::int64_t end = i + 1;
    while (end < num_logits && batch.logit_rows[static_cast<std::size_t>(end)] == first + (end - i)) ++end;
    stream.norm_rows(ctx, norm_, first, first + (end - i), normed.rows(i, end));
    i = end;
  }
  lm_head_.forward(ctx, normed, logits);
}

std::vector<WeightSpec> DeepseekMla::weight_specs() {
  std::vector<WeightSpec> specs;
  specs.push_back(
      matrix_spec("model.embed_tokens", LayerKind::other, ShardRule::column, embed_tokens_.table()));
  specs.back().use = lm_head_.is_tied() ? WeightUse::logit_rows : WeightUse::embedding_rows;
  for (DecoderLayer& layer : layers_) layer.append_specs(specs);
  specs.push_back(vector_spec("model.norm.weight", LayerKind::other, norm_.weight()));
  if (!lm_head_.is_tied()) {
    specs.push_back(matrix_spec("lm_head", LayerKind::other, ShardRule::column, lm_head_.weight()));
    specs.back().use = WeightUse::logit_rows;
  }
  return specs;
}

void DeepseekMla::settle_costs(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of) {
  ModelCosts costs = weight_costs(specs, bytes_of);
  costs.num_experts = costs_.num_experts;
  costs.topk = costs_.topk;
  costs.cache_token_bytes = costs_.cache_token_bytes;
  costs.attention_mults_per_pair = costs_.attention_mults_per_pair;
  costs_ = costs;
  info_.num_parameters = costs.num_parameters;
  info_.weight_bytes = costs.weight_bytes;
}

}  // namespace nibble::models::deepseek_mla
