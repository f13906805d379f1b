#include "layers/rms_norm.h"

namespace nibble::layers {

void RmsNorm::forward(Context& ctx, TensorView x, TensorView y) const { forward_add(ctx, x, {}, y); }

void RmsNorm::forward_add(Context& ctx, TensorView x, TensorView add, TensorView y) const {
  NIB_CHECK(x.dim(0) == y.dim(0) && x.dim(1) == weight_.size && y.dim(1) == weight_.size,
            "norm over {} values got rows of {} and {}", weight_.size, x.dim(1), y.dim(1));
  ctx.table.rms_norm(ctx.exec, {.x = x, .weight = weight_.f32(), .eps = eps_, .y = y, .add = add});
}

}  // namespace nibble::layers
