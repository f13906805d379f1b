#include "layers/router.h"

namespace nibble::layers {

Router::Router(const RouterConfig& config)
    : config_(config),
      gate_(config.n_routed_experts, config.hidden_size, kernels::Precision::exact),
      correction_bias_{.size = config.has_correction_bias ? config.n_routed_experts : 0} {}

void Router::forward(Context& ctx, TensorView x, TensorView topk_ids, TensorView topk_weights) const {
  NIB_CHECK(topk_ids.dtype == DType::i32 && topk_ids.dim(0) == x.dim(0) && topk_weights.dim(0) == x.dim(0) &&
                topk_ids.dim(1) == config_.num_experts_per_tok &&
                topk_weights.dim(1) == config_.num_experts_per_tok,
            "router of {} experts per token got outputs [{}, {}]", config_.num_experts_per_tok,
            topk_ids.dim(0), topk_ids.dim(1));
  const ArenaScope scope(ctx.arena);
  const TensorView logits = ctx.arena.tensor(DType::f32, {x.dim(0), config_.n_routed_experts});
  const kernels::Weight& gate = gate_.weight();
  if (ctx.records_inputs()) ctx.inputs->record({.weights = {&gate}, .x = x, .rows = {}});
  const QuantizedInput input(ctx, x, {gate_.activations()});
  ctx.table.topk_gate(ctx.exec, {.logits = logits,
                                 .gate = &gate,
                                 .x = input.as(gate_.activations()),
                                 .correction_bias = correction_bias_.f32(),
                                 .scoring = config_.scoring_func,
                                 .group_score = config_.group_score,
                                 .n_group = config_.n_group,
                                 .topk_group = config_.topk_group,
                                 .topk = config_.num_experts_per_tok,
                                 .norm_topk_prob = config_.norm_topk_prob,
                                 .routed_scaling_factor = config_.routed_scaling_factor,
                                 .topk_ids = topk_ids.as<std::int32_t>(),
                                 .topk_weights = topk_weights.as<float>()});
}

}  // namespace nibble::layers
