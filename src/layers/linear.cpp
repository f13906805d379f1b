#include "layers/linear.h"

namespace nibble::layers {

using kernels::Precision;

void Linear::forward(Context& ctx, TensorView x, TensorView y) const {
  const ArenaScope scope(ctx.arena);
  if (ctx.records_inputs()) ctx.inputs->record({.weights = {&weight_}, .x = x, .rows = {}});
  run(ctx, input(ctx, x), y, false);
}

void Linear::forward(Context& ctx, const QuantizedInput& x, TensorView y) const {
  run(ctx, x.as(activations()), y, false);
}

void Linear::forward_with(Context& ctx, const QuantizedInput& x, TensorView y, const Linear& other,
                          TensorView other_y) const {
  if (activations() != other.activations() || precision_ != Precision::fast ||
      other.precision_ != Precision::fast) {
    forward(ctx, x, y);
    return other.forward(ctx, x, other_y);
  }
  ctx.table.linear_pair(ctx.exec, {.x = x.as(activations()),
                                   .first = weight_,
                                   .first_y = y,
                                   .second = other.weight_,
                                   .second_y = other_y});
}

void Linear::forward_add(Context& ctx, TensorView x, TensorView y) const {
  const ArenaScope scope(ctx.arena);
  if (ctx.records_inputs()) ctx.inputs->record({.weights = {&weight_}, .x = x, .rows = {}});
  run(ctx, input(ctx, x), y, true);
}

TensorView Linear::input(Context& ctx, TensorView x) const {
  const auto readers =
      precision_ == Precision::fast ? QuantizedInput::Readers::fast_linears : QuantizedInput::Readers::any;
  return QuantizedInput(ctx, x, {activations()}, readers).as(activations());
}

void Linear::run(Context& ctx, TensorView x, TensorView y, bool accumulate) const {
  NIB_CHECK(x.rank == 2 && y.rank == 2 && x.dim(0) == y.dim(0), "x has {} rows, y has {}", x.dim(0),
            y.dim(0));
  NIB_CHECK(x.dim(1) == weight_.shape.k && y.dim(1) == weight_.shape.n,
            "[{}, {}] weight for {} inputs, {} outputs", weight_.shape.n, weight_.shape.k, x.dim(1),
            y.dim(1));
  ctx.table.linear(ctx.exec,
                   {.x = x, .w = weight_, .y = y, .accumulate = accumulate, .precision = precision_});
}

}  // namespace nibble::layers
