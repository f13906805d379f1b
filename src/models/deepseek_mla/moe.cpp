#include "models/deepseek_mla/moe.h"

#include <fmt/format.h>

namespace nibble::models::deepseek_mla {

Moe::Moe(const MoeConfig& config)
    : gate_(config.router),
      experts_(config.router.n_routed_experts, config.router.hidden_size, config.moe_intermediate_size) {
  if (config.shared_intermediate_size > 0) {
    shared_experts_.emplace(config.router.hidden_size, config.shared_intermediate_size);
  }
}

void Moe::forward(layers::Context& ctx, std::int32_t layer_idx, TensorView x,
                  layers::ResidualStream& stream) const {
  const ArenaScope scope(ctx.arena);
  const std::int64_t topk = gate_.config().num_experts_per_tok;
  const Routes routes{.topk_ids = ctx.arena.tensor(DType::i32, {x.dim(0), topk}),
                      .topk_weights = ctx.arena.tensor(DType::f32, {x.dim(0), topk})};
  const quant::ActivationFormat shared =
      shared_experts_ ? shared_experts_->activations() : quant::ActivationFormat::none;
  const layers::QuantizedInput input(ctx, x, {experts_.activations(), shared});
  if (!shared_experts_) {
    // Adding straight to the residual stream saves a zeroed tensor; with several ranks each would add
    // the residual once more.
    NIB_CHECK(ctx.comm.size() == 1, "a layer without shared experts runs on one rank, not {}",
              ctx.comm.size());
    route(ctx, x, routes);
    record(ctx, layer_idx, routes);
    return experts_.forward_add(ctx, input, routes.topk_ids, routes.topk_weights, stream.settled(ctx));
  }
  const TensorView out = stream.delta();
  if (ctx.comm.size() == 1) {
    // Nothing is shared between ranks: experts may add to the stream while the shared ones' output is
    // pending.
    const TensorView hidden = stream.settled(ctx);
    if (experts_.takes_along(ctx, *shared_experts_, x, routes.topk_ids)) {
      route(ctx, x, routes);
      record(ctx, layer_idx, routes);
      return experts_.forward_add(ctx, input, routes.topk_ids, routes.topk_weights, hidden,
                                  &*shared_experts_);
    }
    ctx.run_concurrently([&] { route(ctx, x, routes); }, [&] { shared_experts_->forward(ctx, input, out); });
    record(ctx, layer_idx, routes);
    experts_.forward_add(ctx, input, routes.topk_ids, routes.topk_weights, hidden);
  } else {
    shared_experts_->forward(ctx, input, out);
    route(ctx, x, routes);
    record(ctx, layer_idx, routes);
    experts_.forward_add(ctx, input, routes.topk_ids, routes.topk_weights, out);
    ctx.comm.all_reduce_sum(out);
  }
  stream.set_pending();
}

void Moe::route(layers::Context& ctx, TensorView x, const Routes& routes) const {
  gate_.forward(ctx, x, routes.topk_ids, routes.topk_weights);
}

void Moe::record(layers::Context& ctx, std::int32_t layer_idx, const Routes& routes) {
  if (ctx.trace == nullptr) return;
  ctx.trace->record("topk_ids", layer_idx, routes.topk_ids);
  ctx.trace->record("topk_weights", layer_idx, routes.topk_weights);
}

void Moe::append_specs(std::vector<WeightSpec>& specs, const std::string& prefix) {
  specs.push_back(matrix_spec(prefix + "gate", LayerKind::other, ShardRule::replicate, gate_.weight()));
  if (gate_.config().has_correction_bias) {
    specs.push_back(
        vector_spec(prefix + "gate.e_score_correction_bias", LayerKind::other, gate_.correction_bias()));
  }
  for (std::int64_t e = 0; e < gate_.config().n_routed_experts; ++e) {
    const auto matrix = [&](const char* name, kernels::Weight& weight) {
      specs.push_back(matrix_spec(fmt::format("{}experts.{}.{}", prefix, e, name), LayerKind::experts,
                                  ShardRule::expert, weight, e));
    };
    matrix("gate_proj", experts_.gate_proj());
    matrix("up_proj", experts_.up_proj());
    matrix("down_proj", experts_.down_proj());
  }
  if (shared_experts_) append_mlp_specs(specs, prefix + "shared_experts.", *shared_experts_);
}

void append_mlp_specs(std::vector<WeightSpec>& specs, const std::string& prefix, layers::GatedMlp& mlp) {
  specs.push_back(matrix_spec(prefix + "gate_proj", LayerKind::mlp, ShardRule::column, mlp.gate_proj()));
  specs.push_back(matrix_spec(prefix + "up_proj", LayerKind::mlp, ShardRule::column, mlp.up_proj()));
  specs.push_back(matrix_spec(prefix + "down_proj", LayerKind::mlp, ShardRule::row, mlp.down_proj()));
}

}  // namespace nibble::models::deepseek_mla
