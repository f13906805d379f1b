// Token-level perplexity of a known token sequence, in windows.
//
// Windows of `window` tokens begin every `stride` tokens, as in the sliding-window evaluation of
// Hugging Face transformers: each token is scored once, by the first window that holds it, given the
// tokens before it in that window. The first token of the first window has nothing before it and is
// never scored; nor, where windows do not overlap, is the first token of any other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/model_runner.h"
#include "engine/page_pool.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

struct TokenNll {
  double nll = 0;           // nats, summed over scored tokens
  std::int64_t tokens = 0;  // scored
};

// `window` >= 2, 1 <= stride <= window. `on_window(tokens_done)` is called after each window; an error
// it returns ends the run.
Result<TokenNll> token_nll(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
                           std::span<const TokenId> tokens, std::int32_t window, std::int32_t stride,
                           const std::function<Status(std::size_t)>& on_window);

// -log softmax(row)[target], in double.
double negative_log_likelihood(std::span<const float> row, TokenId target);

}  // namespace nibble::engine
