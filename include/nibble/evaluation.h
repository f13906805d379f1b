// How far a model's predictions are from those of a reference: Kullback-Leibler divergence over a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "nibble/llm.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

// Over the scored tokens of a text, the same that Llm::perplexity scores. With p the reference's and q
// the model's distribution of a token, its divergence is D(p || q) = sum p log(p / q), in nats.
struct Divergence {
  std::int64_t tokens = 0;
  double mean = 0;
  double median = 0;
  double p99 = 0;  // quantiles interpolate linearly between order statistics
  double max = 0;
  double top1_agreement = 0;  // share of tokens for which both find the same one likeliest; 0 to 1
  double nll = 0;             // total, nats
  double perplexity = 0;
  double reference_nll = 0;
  double reference_perplexity = 0;
};

// Both models run in turn, window by window; one window's logits of the reference are kept. bad_input if
// the reference has another vocabulary or tokenises the text differently.
Result<Divergence> kl_divergence(Llm& model, Llm& reference, std::string_view text,
                                 const PerplexityOptions& options, const ProgressCallback& progress = {});

struct SavedReference {
  std::int32_t window = 0;  // as resolved from the options
  std::int32_t stride = 0;
  std::int64_t tokens = 0;  // scored
  double nll = 0;
  double perplexity = 0;
  std::uint64_t file_bytes = 0;
};

// Writes what `model` predicts for the text: all logits, in 16 bits (2 bytes x vocabulary per token). The
// file appears under its name once it is complete.
Result<SavedReference> save_reference(Llm& model, std::string_view text, const PerplexityOptions& options,
                                      const std::filesystem::path& file,
                                      const ProgressCallback& progress = {});

// Against a file of save_reference. A logit in it is off by at most d = 0.51 (max - min of its row) / 65535,
// so a token's divergence is off by at most d^2 / 2 + d / 2 * (max - min of log(p / q) over the vocabulary);
// of a model against itself it is at most d^2 / 2. bad_input if the file is damaged or was made from other
// tokens, windows or another vocabulary.
Result<Divergence> kl_divergence(Llm& model, const std::filesystem::path& reference, std::string_view text,
                                 const PerplexityOptions& options, const ProgressCallback& progress = {});

}  // namespace nibble
