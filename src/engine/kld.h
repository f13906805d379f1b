// Kullback-Leibler divergence of two rows of logits, and its statistics over many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nibble/evaluation.h"
#include "nibble/types.h"

namespace nibble::engine {

// D(softmax(p) || softmax(q)) in nats, in double; equal rows give exactly 0. The rows are finite and
// equally long; adding a constant to either changes nothing beyond rounding.
double kl_divergence(std::span<const float> p, std::span<const float> q);

// The likeliest token, of equal ones the lowest id.
TokenId top1(std::span<const float> row);

// The value below which a share of `sorted` (ascending, not empty) lies, interpolated linearly.
double quantile(std::span<const double> sorted, double share);

class DivergenceSum {
 public:
  // What the reference says of one token.
  struct Reference {
    std::span<const float> logits;
    double nll = 0;  // of the target
    TokenId top1 = 0;
  };
  void add(TokenId target, const Reference& reference, std::span<const float> logits);
  [[nodiscard]] std::size_t size() const { return divergences_.size(); }
  // Of all that was added; at least one token.
  [[nodiscard]] Divergence finish() &&;

 private:
  std::vector<double> divergences_;
  std::int64_t num_agreed_ = 0;
  double nll_ = 0;
  double reference_nll_ = 0;
};

}  // namespace nibble::engine
