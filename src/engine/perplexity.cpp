#include "engine/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

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
                           std::span<const TokenId> tokens, const Windows& windows,
                           const std::function<Status(std::size_t)>& on_window) {
  NIB_CHECK(windows.window >= 2 && windows.stride >= 1 && windows.stride <= windows.text_tokens(),
            "window {}, stride {}", windows.window, windows.stride);
  const std::size_t num_bos = windows.bos ? 1 : 0;
  TokenNll total;
  std::vector<TokenId> input;
  std::size_t scored = 0;  // tokens before this one have been scored, or never will be
  for (std::size_t begin = 0; scored < tokens.size(); begin += static_cast<std::size_t>(windows.stride)) {
    const std::size_t end = std::min(begin + static_cast<std::size_t>(windows.text_tokens()), tokens.size());
    const std::size_t first = std::max(scored, begin + 1 - num_bos);
    if (first < end) {
      input.assign(num_bos, windows.bos.value_or(0));
      const auto text = tokens.subspan(begin, end - 1 - begin);
      input.insert(input.end(), text.begin(), text.end());
      // The logits after input token i score text token begin + i + 1 - num_bos.
      const KnownSequence sequence{.tokens = input,
                                   .logits_from = static_cast<std::int32_t>(first - 1 + num_bos - begin)};
      const auto add = [&](std::size_t, std::int32_t i, std::span<const float> row) -> Status {
        total.nll += negative_log_likelihood(row, tokens[begin + static_cast<std::size_t>(i) + 1 - num_bos]);
        ++total.tokens;
        return {};
      };
      NIB_TRY_STATUS(score(runner, pool, vocab_size, {&sequence, 1}, add));
    }
    scored = end;
    NIB_TRY_STATUS(on_window(end));
  }
  return total;
}

}  // namespace nibble::engine
