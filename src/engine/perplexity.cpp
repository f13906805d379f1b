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

TextWindows cut_windows(std::vector<TokenId> tokens, const Windows& windows) {
  NIB_CHECK(windows.window >= 2 && windows.stride >= 1 && windows.stride <= windows.text_tokens(),
            "window {}, stride {}", windows.window, windows.stride);
  TextWindows cut{
      .tokens = std::move(tokens), .bos = windows.bos, .window = windows.window, .stride = windows.stride};
  const std::size_t predecessors = windows.bos ? 0 : 1;  // text tokens a scored token needs before it
  std::size_t scored = 0;  // tokens before this one have been scored, or never will be
  for (std::size_t begin = 0; scored < cut.tokens.size(); begin += static_cast<std::size_t>(windows.stride)) {
    const std::size_t end =
        std::min(begin + static_cast<std::size_t>(windows.text_tokens()), cut.tokens.size());
    const std::size_t first = std::min(std::max(scored, begin + predecessors), end);
    cut.windows.push_back({.begin = begin, .end = end, .first = first});
    cut.num_scored += static_cast<std::int64_t>(end - first);
    scored = end;
  }
  return cut;
}

Status score_window(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size, const TextWindows& text,
                    std::size_t window, const PredictionCallback& on_prediction) {
  NIB_CHECK(window < text.windows.size(), "window {} of {}", window, text.windows.size());
  const auto [begin, end, first] = text.windows[window];
  if (first == end) return {};
  const std::size_t num_bos = text.bos ? 1 : 0;
  std::vector<TokenId> input(num_bos, text.bos.value_or(0));
  const auto fed = std::span(text.tokens).subspan(begin, end - 1 - begin);
  input.insert(input.end(), fed.begin(), fed.end());
  // The logits after input token i predict text token origin + i.
  const std::size_t origin = begin + 1 - num_bos;
  const KnownSequence sequence{.tokens = input, .logits_from = static_cast<std::int32_t>(first - origin)};
  return score(runner, pool, vocab_size, {&sequence, 1},
               [&](std::size_t, std::int32_t i, std::span<const float> row) -> Status {
                 return on_prediction(text.tokens[origin + static_cast<std::size_t>(i)], row);
               });
}

Result<TokenNll> token_nll(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
                           const TextWindows& text, const std::function<Status(std::size_t)>& on_window) {
  TokenNll total;
  const auto add = [&](TokenId target, std::span<const float> row) -> Status {
    total.nll += negative_log_likelihood(row, target);
    ++total.tokens;
    return {};
  };
  for (std::size_t i = 0; i < text.windows.size(); ++i) {
    NIB_TRY_STATUS(score_window(runner, pool, vocab_size, text, i, add));
    NIB_TRY_STATUS(on_window(text.windows[i].end));
  }
  return total;
}

}  // namespace nibble::engine
