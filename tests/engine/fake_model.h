// FakeModel: a model whose logits are a hash of the whole sequence, read back token by token from the
// cache pages. Any mistake in pages, slots, positions or order either throws or changes the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "models/model.h"
#include "nibble/types.h"

namespace nibble::testing {

// What one forward was given, for tests of scheduling.
struct SeenSequence {
  std::int32_t begin = 0;
  std::int32_t count = 0;
  friend bool operator==(const SeenSequence&, const SeenSequence&) = default;
};
struct SeenBatch {
  std::vector<SeenSequence> seqs;
  std::int32_t num_prefill = 0;
  std::int32_t num_logits = 0;
};

class FakeModel : public models::Model {
 public:
  explicit FakeModel(std::int32_t vocab_size = 61, std::int32_t max_position_embeddings = 256);

  // The logits after a sequence, without any engine.
  [[nodiscard]] std::vector<float> logits_after(std::span<const TokenId> tokens) const;
  // The n tokens that follow `prompt` greedily.
  [[nodiscard]] std::vector<TokenId> greedy_reply(std::vector<TokenId> prompt, int n) const;

  [[nodiscard]] const models::ModelInfo& info() const override { return info_; }
  [[nodiscard]] std::span<const layers::CacheSpec> cache_specs() const override { return specs_; }
  void forward(layers::Context& ctx, const layers::ForwardBatch& batch, const layers::CacheView& cache,
               TensorView logits) const override;
  [[nodiscard]] models::ActiveBytes active_bytes(std::int64_t num_tokens,
                                                 std::int64_t context_len) const override;
  [[nodiscard]] double prefill_flops(std::int64_t num_tokens) const override;

  models::ModelInfo& mutable_info() { return info_; }
  std::vector<layers::CacheSpec>& mutable_specs() { return specs_; }

  // The logits after this token are NaN.
  std::optional<TokenId> nan_after;
  // Answers zeros, reads nothing back and allocates nothing.
  bool silent = false;
  // Called with the number of the forward (0, 1, ...), after the cache was written; may throw.
  std::function<void(int)> on_forward;
  // What was run, oldest first; not in counting mode.
  mutable std::vector<SeenBatch> seen;

 private:
  void write_cache(const layers::ForwardBatch& batch, const layers::CacheView& cache) const;
  [[nodiscard]] std::vector<TokenId> read_cache(const layers::ForwardBatch& batch,
                                                const layers::CacheView& cache, std::int32_t seq_idx,
                                                std::int32_t length) const;

  models::ModelInfo info_;
  std::vector<layers::CacheSpec> specs_;
  mutable int num_forwards_ = 0;
};

}  // namespace nibble::testing
