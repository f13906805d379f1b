// Embedding: one row of the table per token id.
#pragma once

#include <cstdint>

#include "kernels/weight.h"
#include "layers/context.h"

namespace nibble::layers {

class Embedding {
 public:
  explicit Embedding(kernels::Weight table) : table_(std::move(table)) {}
  Embedding(std::int64_t vocab_size, std::int64_t hidden_size)
      : Embedding(kernels::Weight{.shape = {.n = vocab_size, .k = hidden_size}}) {}

  // token_ids: [m], each in [0, vocab_size); y: [m, hidden_size] f32.
  void forward(Context& ctx, const std::int32_t* token_ids, TensorView y) const;

  [[nodiscard]] const kernels::Weight& table() const noexcept { return table_; }
  // For loading, once.
  [[nodiscard]] kernels::Weight& table() noexcept { return table_; }

 private:
  kernels::Weight table_;
};

}  // namespace nibble::layers
