#include "layers/lm_head.h"

namespace nibble::layers {

void LmHead::forward(Context& ctx, TensorView x, TensorView logits) const {
  if (tied_ == nullptr) return linear_.forward(ctx, x, logits);
  ctx.table.linear(ctx.exec, {.x = x, .w = tied_->table(), .y = logits});
}

}  // namespace nibble::layers
