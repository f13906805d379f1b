#include "layers/mla_attention.h"

#include <algorithm>

namespace nibble::layers {
namespace {

kernels::Weight per_head_weight(const MlaConfig& config, std::int64_t rows) {
  return {.shape = {.num_groups = config.num_attention_heads, .n = rows, .k = config.kv_lora_rank}};
}

std::int64_t at(std::span<const std::int32_t> values, std::int32_t i) {
  return values[static_cast<std::size_t>(i)];
}

// Query rows of sequence s.
std::int64_t num_rows(const ForwardBatch& batch, std::int32_t s) {
  return at(batch.cu_seqlens_q, s + 1) - at(batch.cu_seqlens_q, s);
}

// [m, heads, dim] as [m, heads * dim].
TensorView flat(const TensorView& x) {
  return make_view(x.data, DType::f32, {x.dim(0), x.dim(1) * x.dim(2)});
}

const MlaRule& rule_of(const Context& ctx) {
  return ctx.exec.memory().is_host() ? kHostMlaRule : kGpuMlaRule;
}

}  // namespace

MlaWeights::MlaWeights(const MlaConfig& config)
    : kv_a_proj_with_mqa(config.kv_lora_rank + config.qk_rope_head_dim, config.hidden_size),
      kv_a_layernorm(config.kv_lora_rank, config.norm_eps),
      w_uk(per_head_weight(config, config.qk_nope_head_dim)),
      w_uv(per_head_weight(config, config.v_head_dim)),
      o_proj(config.hidden_size, config.num_attention_heads * config.v_head_dim) {
  const std::int64_t q_size = config.num_attention_heads * config.qk_head_dim();
  if (config.q_lora_rank == 0) {
    q_proj.emplace(q_size, config.hidden_size);
  } else {
    q_a_proj.emplace(config.q_lora_rank, config.hidden_size);
    q_a_layernorm.emplace(config.q_lora_rank, config.norm_eps);
    q_b_proj.emplace(q_size, config.q_lora_rank);
  }
}

void MlaAttention::forward(Context& ctx, const ForwardBatch& batch, const Rope& rope, const TensorView& cache,
                           std::int32_t page_size, TensorView x, TensorView y) const {
  const ArenaScope scope(ctx.arena);
  const std::int64_t m = x.dim(0);
  const std::int64_t heads = config_.num_attention_heads;
  const TensorView q = ctx.arena.tensor(DType::f32, {m, heads, config_.qk_head_dim()});
  const Step step{.batch = batch,
                  .rope = rope,
                  .cache = cache,
                  .page_size = page_size,
                  .q_nope = q.columns(0, config_.qk_nope_head_dim),
                  .q_pe = q.columns(config_.qk_nope_head_dim, config_.qk_head_dim()),
                  .o = ctx.arena.tensor(DType::f32, {m, heads, config_.v_head_dim})};
  const Linear& first_query = weights_.q_proj ? *weights_.q_proj : *weights_.q_a_proj;
  const QuantizedInput input(ctx, x, {first_query.activations(), weights_.kv_a_proj_with_mqa.activations()},
                             QuantizedInput::Readers::fast_linears);
  if (ctx.records_inputs()) {
    ctx.inputs->record(
        {.weights = {&first_query.weight(), &weights_.kv_a_proj_with_mqa.weight()}, .x = x, .rows = {}});
  }
  const TensorView kv_a = ctx.arena.tensor(DType::f32, {m, config_.kv_lora_rank + config_.qk_rope_head_dim});
  const TensorView q_in = weights_.q_proj ? flat(q) : ctx.arena.tensor(DType::f32, {m, config_.q_lora_rank});
  first_query.forward_with(ctx, input, q_in, weights_.kv_a_proj_with_mqa, kv_a);
  ctx.run_concurrently([&] { expand_queries(ctx, q_in, q); }, [&] { write_cache(ctx, step, kv_a); });
  attend(ctx, step);
  weights_.o_proj.forward(ctx, flat(step.o), y);
}

void MlaAttention::expand_queries(Context& ctx, TensorView q_a, TensorView q) const {
  if (weights_.q_proj) return;
  weights_.q_a_layernorm->forward(ctx, q_a, q_a);
  weights_.q_b_proj->forward(ctx, q_a, flat(q));
}

void MlaAttention::write_cache(Context& ctx, const Step& step, TensorView kv_a) const {
  const TensorView latent = kv_a.columns(0, config_.kv_lora_rank);
  const TensorView k_pe = kv_a.columns(config_.kv_lora_rank, kv_a.dim(1));
  const kernels::CacheEntryPrologue prologue{.norm_weight = weights_.kv_a_layernorm.weight().f32(),
                                             .norm_eps = weights_.kv_a_layernorm.eps(),
                                             .positions = step.batch.arrays().positions,
                                             .cos = step.rope.cos(),
                                             .sin = step.rope.sin()};
  ctx.table.cache_write(ctx.exec, {.latent = latent,
                                   .k_pe = k_pe,
                                   .slot_mapping = step.batch.arrays().slot_mapping,
                                   .cache = step.cache,
                                   .prologue = &prologue});
}

void MlaAttention::rotate(Context& ctx, const Step& step, std::int64_t begin, std::int64_t end) const {
  step.rope.forward(ctx, step.q_pe.rows(begin, end), step.batch.arrays().positions + begin);
}

void MlaAttention::attend(Context& ctx, const Step& step) const {
  if (ctx.arena.counting()) return attend_counting(ctx, step);
  const ForwardBatch& batch = step.batch;
  const auto mode_of = [&](std::int32_t s) {
    return choose_mla_mode(config_, rule_of(ctx), batch.mla_mode, num_rows(batch, s), at(batch.seq_lens, s));
  };
  for (std::int32_t s = 0; s < batch.num_seqs();) {
    if (mode_of(s) == MlaMode::naive) {
      attend_naive(ctx, step, s, at(batch.seq_lens, s));
      ++s;
      continue;
    }
    std::int32_t end = s + 1;
    while (end < batch.num_seqs() && mode_of(end) == MlaMode::absorb) ++end;
    attend_absorbed(ctx, step, s, end);
    s = end;
  }
}

void MlaAttention::attend_counting(Context& ctx, const Step& step) const {
  const ForwardBatch& batch = step.batch;
  if (batch.mla_mode != MlaMode::naive) attend_absorbed(ctx, step, 0, batch.num_seqs());
  if (batch.mla_mode == MlaMode::absorb) return;
  std::int64_t longest = 0;
  for (std::int32_t s = 0; s < batch.num_seqs(); ++s) longest = std::max(longest, at(batch.seq_lens, s));
  if (batch.mla_mode == MlaMode::automatic)
    longest = std::min(longest, max_automatic_naive_length(config_, rule_of(ctx)));
  attend_naive(ctx, step, 0, longest);
}

void MlaAttention::attend_naive(Context& ctx, const Step& step, std::int32_t seq_idx,
                                std::int64_t length) const {
  const ArenaScope scope(ctx.arena);
  const ForwardBatch& batch = step.batch;
  const std::int64_t heads = config_.num_attention_heads;
  const TensorView latent = ctx.arena.tensor(DType::f32, {length, config_.kv_lora_rank});
  const TensorView k_pe = ctx.arena.tensor(DType::f32, {length, config_.qk_rope_head_dim});
  const DType rebuilt =
      ctx.table.rebuilt(config_.qk_nope_head_dim, config_.qk_rope_head_dim, config_.v_head_dim);
  const TensorView k_nope = ctx.arena.tensor(rebuilt, {length, heads, config_.qk_nope_head_dim});
  const TensorView v = ctx.arena.tensor(rebuilt, {length, heads, config_.v_head_dim});
  ctx.table.cache_gather(
      ctx.exec, {.cache = step.cache,
                 .page_table = batch.arrays().page_tables + std::ptrdiff_t{seq_idx} * batch.max_pages,
                 .page_size = step.page_size,
                 .length = static_cast<std::int32_t>(length),
                 .latent = latent,
                 .k_pe = k_pe});
  const quant::ActivationFormat format = weights_.w_uk.shape.activations;
  if (ctx.records_inputs())
    ctx.inputs->record({.weights = {&weights_.w_uk, &weights_.w_uv}, .x = latent, .rows = {}});
  const TensorView kv_b_input = QuantizedInput(ctx, latent, {format}).as(format);
  ctx.table.head_linear(ctx.exec, {.x = kv_b_input, .w = weights_.w_uk, .y = k_nope});
  ctx.table.head_linear(ctx.exec, {.x = kv_b_input, .w = weights_.w_uv, .y = v});
  const std::int64_t begin = at(batch.cu_seqlens_q, seq_idx);
  const std::int64_t end = at(batch.cu_seqlens_q, seq_idx + 1);
  rotate(ctx, step, begin, end);
  ctx.table.mha(ctx.exec, {.q_nope = step.q_nope.rows(begin, end),
                           .q_pe = step.q_pe.rows(begin, end),
                           .k_nope = k_nope,
                           .k_pe = k_pe,
                           .v = v,
                           .scale = config_.softmax_scale,
                           .o = step.o.rows(begin, end)});
}

void MlaAttention::attend_absorbed(Context& ctx, const Step& step, std::int32_t seq_begin,
                                   std::int32_t seq_end) const {
  const ArenaScope scope(ctx.arena);
  const ForwardBatch& batch = step.batch;
  const std::int64_t begin = at(batch.cu_seqlens_q, seq_begin);
  const std::int64_t end = at(batch.cu_seqlens_q, seq_end);
  const std::int64_t heads = config_.num_attention_heads;
  const BatchArrays arrays = batch.arrays();
  const TensorView q_latent = ctx.arena.tensor(DType::f32, {end - begin, heads, config_.kv_lora_rank});
  const TensorView o_latent = ctx.arena.tensor(DType::f32, {end - begin, heads, config_.kv_lora_rank});
  const auto fold_w_uk = [&] {
    ctx.table.head_linear_transposed(ctx.exec,
                                     {.x = step.q_nope.rows(begin, end), .w = weights_.w_uk, .y = q_latent});
  };
  ctx.run_concurrently(fold_w_uk, [&] { rotate(ctx, step, begin, end); });
  ctx.table.mla_absorbed(
      ctx.exec, {.q_latent = q_latent,
                 .q_pe = step.q_pe.rows(begin, end),
                 .cache = step.cache,
                 .ragged = {.num_seqs = seq_end - seq_begin,
                            .cu_seqlens_q = arrays.cu_seqlens_q + seq_begin,
                            .seq_lens = arrays.seq_lens + seq_begin,
                            .page_tables = arrays.page_tables + std::ptrdiff_t{seq_begin} * batch.max_pages,
                            .max_pages = batch.max_pages,
                            .page_size = step.page_size},
                 .scale = config_.softmax_scale,
                 .o = o_latent});
  ctx.table.head_linear(ctx.exec, {.x = o_latent, .w = weights_.w_uv, .y = step.o.rows(begin, end)});
}

}  // namespace nibble::layers
