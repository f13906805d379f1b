// LmHead: logits over the vocabulary, from its own weight or from the embedding's (tied).
#pragma once

#include <optional>

#include "layers/embedding.h"
#include "layers/linear.h"

namespace nibble::layers {

class LmHead {
 public:
  explicit LmHead(kernels::Weight weight) : linear_(std::move(weight)) {}
  LmHead(std::int64_t vocab_size, std::int64_t hidden_size) : linear_(vocab_size, hidden_size) {}
  // Shares the table of `tied`, which must outlive this layer and stay where it is.
  explicit LmHead(const Embedding& tied) : linear_(0, 0), tied_(&tied) {}

  // x: [m, hidden_size] f32, logits: [m, vocab_size] f32.
  void forward(Context& ctx, TensorView x, TensorView logits) const;

  [[nodiscard]] bool is_tied() const noexcept { return tied_ != nullptr; }
  // For loading, once; unused when tied.
  [[nodiscard]] kernels::Weight& weight() noexcept { return linear_.weight(); }

 private:
  Linear linear_;
  const Embedding* tied_ = nullptr;
};

}  // namespace nibble::layers
