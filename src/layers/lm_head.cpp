#include "layers/lm_head.h"

namespace nibble::layers {

void LmHead::forward(Context& ctx, TensorView x, TensorView logits) const {
  if (tied_ == nullptr) return linear_.forward(ctx, x, logits);
  const ArenaScope scope(ctx.arena);
  const quant::ActivationFormat format = tied_->table().shape.activations;
  const QuantizedInput input(ctx, x, {format}, QuantizedInput::Readers::fast_linears);
  ctx.table.linear(ctx.exec, {.x = input.as(format), .w = tied_->table(), .y = logits});
}

}  // namespace nibble::layers
