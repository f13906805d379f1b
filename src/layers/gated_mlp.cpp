#include "layers/gated_mlp.h"

namespace nibble::layers {

GatedMlp::GatedMlp(std::int64_t hidden_size, std::int64_t intermediate_size)
    : GatedMlp({.shape = {.n = intermediate_size, .k = hidden_size}},
               {.shape = {.n = intermediate_size, .k = hidden_size}},
               {.shape = {.n = hidden_size, .k = intermediate_size}}) {}

GatedMlp::GatedMlp(kernels::Weight gate, kernels::Weight up, kernels::Weight down)
    : gate_proj_(std::move(gate)), up_proj_(std::move(up)), down_proj_(std::move(down)) {}

void GatedMlp::forward(Context& ctx, TensorView x, TensorView y) const {
  const ArenaScope scope(ctx.arena);
  forward(ctx, QuantizedInput(ctx, x, {activations()}, QuantizedInput::Readers::fast_linears), y);
}

void GatedMlp::forward(Context& ctx, const QuantizedInput& input, TensorView y) const {
  NIB_CHECK(up_proj_.shape.activations == activations(), "gate and up share one input");
  const ArenaScope scope(ctx.arena);
  const TensorView x = input.as(activations());
  if (ctx.records_inputs()) ctx.inputs->record({.weights = {&gate_proj_, &up_proj_}, .x = x, .rows = {}});
  const TensorView inner = ctx.arena.tensor(DType::f32, {x.dim(0), gate_proj_.shape.n});
  ctx.table.gated_linear(ctx.exec, {.x = x, .gate = gate_proj_, .up = up_proj_, .y = inner});
  down_proj_.forward(ctx, inner, y);
}

}  // namespace nibble::layers
