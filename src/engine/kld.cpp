#include "engine/kld.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "engine/perplexity.h"

namespace nibble::engine {

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  NIB_CHECK(p.size() == q.size() && !p.empty(), "rows of {} and {} logits", p.size(), q.size());
  const double max_p = *std::max_element(p.begin(), p.end());
  const double max_q = *std::max_element(q.begin(), q.end());
  double sum_p = 0;
  double sum_q = 0;
  double weighted = 0;  // sum of p times the difference of the shifted logits
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double a = p[i] - max_p;
    const double b = q[i] - max_q;
    const double e = std::exp(a);
    sum_p += e;
    sum_q += std::exp(b);
    weighted += e * (a - b);
  }
  // Rounding may leave a tiny negative number where the two are nearly equal.
  return std::max(0.0, weighted / sum_p - std::log(sum_p) + std::log(sum_q));
}

TokenId top1(std::span<const float> row) {
  return static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
}

double quantile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

void DivergenceSum::add(TokenId target, const Reference& reference, std::span<const float> logits) {
  divergences_.push_back(kl_divergence(reference.logits, logits));
  if (top1(logits) == reference.top1) ++num_agreed_;
  nll_ += negative_log_likelihood(logits, target);
  reference_nll_ += reference.nll;
}

Divergence DivergenceSum::finish() && {
  NIB_CHECK(!divergences_.empty(), "no tokens");
  const auto count = static_cast<double>(divergences_.size());
  std::sort(divergences_.begin(), divergences_.end());
  return {.tokens = static_cast<std::int64_t>(divergences_.size()),
          .mean = std::accumulate(divergences_.begin(), divergences_.end(), 0.0) / count,
          .median = quantile(divergences_, 0.5),
          .p99 = quantile(divergences_, 0.99),
          .max = divergences_.back(),
          .top1_agreement = static_cast<double>(num_agreed_) / count,
          .nll = nll_,
          .perplexity = std::exp(nll_ / count),
          .reference_nll = reference_nll_,
          .reference_perplexity = std::exp(reference_nll_ / count)};
}

}  // namespace nibble::engine
