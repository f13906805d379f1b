#include "layers/embedding.h"

namespace nibble::layers {

void Embedding::forward(Context& ctx, std::span<const std::int32_t> token_ids, TensorView y) const {
  NIB_CHECK(y.dim(0) == static_cast<std::int64_t>(token_ids.size()) && y.dim(1) == table_.shape.k,
            "{} token ids into [{}, {}], hidden size {}", token_ids.size(), y.dim(0), y.dim(1),
            table_.shape.k);
  ctx.table.embed(ctx.exec, {.ids = token_ids.data(), .table = table_, .y = y});
}

}  // namespace nibble::layers
