#include "layers/fused_moe.h"

#include <optional>
#include <vector>

namespace nibble::layers {

FusedMoe::FusedMoe(std::int64_t num_experts, std::int64_t hidden_size, std::int64_t moe_intermediate_size)
    : FusedMoe({.shape = {.num_groups = num_experts, .n = moe_intermediate_size, .k = hidden_size}},
               {.shape = {.num_groups = num_experts, .n = moe_intermediate_size, .k = hidden_size}},
               {.shape = {.num_groups = num_experts, .n = hidden_size, .k = moe_intermediate_size}}) {}

FusedMoe::FusedMoe(kernels::Weight gate, kernels::Weight up, kernels::Weight down)
    : gate_proj_(std::move(gate)), up_proj_(std::move(up)), down_proj_(std::move(down)) {}

void FusedMoe::forward_add(Context& ctx, const QuantizedInput& input, TensorView topk_ids,
                           TensorView topk_weights, TensorView y, const GatedMlp* shared) const {
  NIB_CHECK(up_proj_.shape.activations == activations(), "gate and up share one input");
  const TensorView x = input.as(activations());
  NIB_CHECK(
      topk_ids.dtype == DType::i32 && topk_ids.dim(0) == x.dim(0) && topk_ids.dim(1) == topk_weights.dim(1),
      "{} tokens, expert ids [{}, {}]", x.dim(0), topk_ids.dim(0), topk_ids.dim(1));
  const ArenaScope scope(ctx.arena);
  const TensorView hidden =
      ctx.inputs == nullptr ? TensorView{}
                            : ctx.arena.tensor(DType::f32, {x.dim(0) * topk_ids.dim(1), gate_proj_.shape.n});
  std::optional<kernels::SharedExperts> along;
  if (shared != nullptr) along.emplace(shared->as_shared_experts());
  ctx.table.fused_moe(ctx.exec, {.x = x,
                                 .topk_ids = topk_ids.as<const std::int32_t>(),
                                 .topk_weights = topk_weights.as<const float>(),
                                 .topk = static_cast<std::int32_t>(topk_ids.dim(1)),
                                 .gate = gate_proj_,
                                 .up = up_proj_,
                                 .down = down_proj_,
                                 .y = y,
                                 .hidden = hidden,
                                 .shared = along ? &*along : nullptr});
  if (ctx.records_inputs()) record_inputs(ctx, x, topk_ids, hidden);
}

bool FusedMoe::takes_along(Context& ctx, const GatedMlp& shared, TensorView x, TensorView topk_ids) const {
  const kernels::SharedExperts along = shared.as_shared_experts();
  return ctx.table.takes_shared_experts({.x = x,
                                         .topk_ids = nullptr,
                                         .topk_weights = nullptr,
                                         .topk = static_cast<std::int32_t>(topk_ids.dim(1)),
                                         .gate = gate_proj_,
                                         .up = up_proj_,
                                         .down = down_proj_,
                                         .y = x,
                                         .shared = &along});
}

void FusedMoe::record_inputs(Context& ctx, TensorView x, TensorView topk_ids, TensorView hidden) const {
  const std::int64_t topk = topk_ids.dim(1);
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> slots;
  for (std::int64_t expert = 0; expert < gate_proj_.shape.num_groups; ++expert) {
    tokens.clear();
    slots.clear();
    for (std::int64_t slot = 0; slot < x.dim(0) * topk; ++slot) {
      if (topk_ids.as<const std::int32_t>()[slot] != expert) continue;
      tokens.push_back(static_cast<std::int32_t>(slot / topk));
      slots.push_back(static_cast<std::int32_t>(slot));
    }
    if (tokens.empty()) continue;
    ctx.inputs->record({.weights = {&gate_proj_, &up_proj_}, .group = expert, .x = x, .rows = tokens});
    ctx.inputs->record({.weights = {&down_proj_}, .group = expert, .x = hidden, .rows = slots});
  }
}

}  // namespace nibble::layers
