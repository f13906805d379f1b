#include "engine/perplexity.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "engine/score.h"

namespace nibble::engine {

double negative_log_likelihood(std::span<const float> row, TokenId target) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(logit - max);
  return max + std::log(sum) - row[static_cast<std::size_t>(target)];
}

Result<TokenNll> token_nll(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
                           std::span<const TokenId> tokens, std::int32_t window, std::int32_t stride,
                           const std::function<Status(std::size_t)>& on_window) {
  NIB_CHECK(window >= 2 && stride >= 1 && stride <= window, "window {}, stride {}", window, stride);
  TokenNll total;
  std::size_t scored = 0;  // tokens before this one have been scored, or never will be
  for (std::size_t begin = 0; scored < tokens.size(); begin += static_cast<std::size_t>(stride)) {
    const std::size_t end = std::min(begin + static_cast<std::size_t>(window), tokens.size());
    // The logits after token t score token t + 1.
    const std::size_t first = std::max(scored, begin + 1);
    if (first < end) {
      const KnownSequence sequence{.tokens = tokens.subspan(begin, end - 1 - begin),
                                   .logits_from = static_cast<std::int32_t>(first - 1 - begin)};
      NIB_TRY_STATUS(score(runner, pool, vocab_size, {&sequence, 1},
                           [&](std::size_t, std::int32_t t, std::span<const float> row) -> Status {
                             total.nll += negative_log_likelihood(
                                 row, tokens[begin + static_cast<std::size_t>(t) + 1]);
                             ++total.tokens;
                             return {};
                           }));
    }
    scored = end;
    NIB_TRY_STATUS(on_window(end));
  }
  return total;
}

}  // namespace nibble::engine
