// Token-level perplexity of a known token sequence, in windows.
//
// Windows begin every `stride` tokens, as in the sliding-window evaluation of Hugging Face
// transformers; each is a fresh sequence. A token is scored once, by the first window that holds it,
// given the tokens before it in that window. So the first token of the text has nothing before it and
// is never scored; nor, where windows do not overlap, is the first token of any other window. With a
// BOS, every window is the BOS and window - 1 tokens of the text, and every token is scored.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/model_runner.h"
#include "engine/page_pool.h"
#include "nibble/llm.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

struct TokenNll {
  double nll = 0;           // nats, summed over scored tokens
  std::int64_t tokens = 0;  // scored
};

struct Windows {
  std::int32_t window = 0;     // tokens the model sees at once, >= 2
  std::int32_t stride = 0;     // tokens of the text, >= 1
  std::optional<TokenId> bos;  // put before each window
  // Tokens of the text in a window; the stride is not longer.
  [[nodiscard]] std::int32_t text_tokens() const { return window - (bos ? 1 : 0); }
};

// The windows that token_nll runs, in order; the last ends where the text ends.
TextWindows cut_windows(std::vector<TokenId> tokens, const Windows& windows);

// The predictions of window `window` of the text.
Status score_window(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size, const TextWindows& text,
                    std::size_t window, const PredictionCallback& on_prediction);

// `on_window(tokens_done)` is called after each window; an error it returns ends the run.
Result<TokenNll> token_nll(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
                           const TextWindows& text, const std::function<Status(std::size_t)>& on_window);

// -log softmax(row)[target], in double.
double negative_log_likelihood(std::span<const float> row, TokenId target);

}  // namespace nibble::engine
