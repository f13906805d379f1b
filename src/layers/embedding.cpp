#include "layers/embedding.h"

namespace nibble::layers {

void Embedding::forward(Context& ctx, const std::int32_t* token_ids, TensorView y) const {
  NIB_CHECK(y.dim(1) == table_.shape.k, "rows of {} of a table of hidden size {}", y.dim(1), table_.shape.k);
  ctx.table.embed(ctx.exec, {.ids = token_ids, .table = table_, .y = y});
}

}  // namespace nibble::layers
