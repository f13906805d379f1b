#include "engine/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "engine/batch_builder.h"

namespace nibble::engine {
namespace {

struct Progress {
  const KnownSequence* sequence = nullptr;
  std::size_t seq_idx = 0;
  std::int32_t num_cached = 0;
  std::int32_t num_scheduled = 0;  // tokens of the step that is being made
  std::vector<PageId> pages;

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(sequence->tokens.size()); }
  [[nodiscard]] bool done() const { return num_cached == size(); }
  [[nodiscard]] BatchItem item() const {
    return {.tokens = sequence->tokens,
            .begin = num_cached,
            .count = num_scheduled,
            .pages = pages,
            .logits_from = sequence->logits_from};
  }
};

// Gives the pages back however the run ends.
class Runs {
 public:
  Runs(PagePool& pool, std::span<const KnownSequence> sequences) : pool_(pool) {
    for (std::size_t i = 0; i < sequences.size(); ++i)
      all_.push_back({.sequence = &sequences[i], .seq_idx = i});
  }
  ~Runs() {
    for (Progress& run : all_) pool_.release(run.pages);
  }
  Runs(const Runs&) = delete;
  Runs& operator=(const Runs&) = delete;

  Status take_pages() {
    for (Progress& run : all_) {
      if (pool_.grow(run.pages, run.size())) continue;
      std::int64_t tokens = 0;
      for (const Progress& each : all_) tokens += each.size();
      return bad_input(
          fmt::format("{} sequences of {} tokens in all do not fit in the cache of {} pages of {} tokens; "
                      "raise max_model_len or max_num_seqs",
                      all_.size(), tokens, pool_.num_pages(), pool_.page_size()));
    }
    return {};
  }
  std::vector<Progress>& all() { return all_; }

 private:
  PagePool& pool_;
  std::vector<Progress> all_;
};

// Tokens of the next chunk: at most `share`.
std::int32_t chunk_size(const Progress& run, std::int32_t share) {
  const KnownSequence& sequence = *run.sequence;
  const bool decodes = sequence.decode_from >= 0;
  if (decodes && run.num_cached >= sequence.decode_from) return 1;
  const std::int32_t end = decodes ? std::min(run.size(), sequence.decode_from) : run.size();
  const std::int32_t chunk = sequence.prefill_chunk > 0 ? std::min(share, sequence.prefill_chunk) : share;
  return std::min(chunk, end - run.num_cached);
}

// Gives every unfinished sequence its next chunk; they share the step's tokens. Those that got one,
// prefill chunks first.
std::vector<Progress*> next_step(std::vector<Progress>& all, std::int32_t budget) {
  std::vector<Progress*> step;
  auto unfinished = static_cast<std::int32_t>(
      std::count_if(all.begin(), all.end(), [](const Progress& r) { return !r.done(); }));
  for (Progress& run : all) {
    if (run.done() || budget == 0) continue;
    run.num_scheduled = chunk_size(run, std::max(1, budget / unfinished));
    budget -= run.num_scheduled;
    --unfinished;
    step.push_back(&run);
  }
  std::stable_partition(step.begin(), step.end(),
                        [](const Progress* run) { return run->item().is_prefill(); });
  return step;
}

// Hands out the rows of one chunk and returns the place after them.
Result<const float*> deliver(const BatchItem& item, std::size_t seq_idx, const float* row, std::size_t width,
                             const LogitsRowCallback& on_row) {
  for (std::int32_t t = std::max(item.begin, item.logits_from); t < item.begin + item.count;
       ++t, row += width) {
    if (!all_finite({row, width})) {
      return runtime_error(
          fmt::format("the logits after token {} are not finite (NaN or infinity): the weights or the "
                      "computation are broken",
                      t));
    }
    NIB_TRY_STATUS(on_row(seq_idx, t, {row, width}));
  }
  return row;
}

}  // namespace

Status score(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
             std::span<const KnownSequence> sequences, const LogitsRowCallback& on_row) {
  const RunnerLimits& limits = runner.limits();
  Runs runs(pool, sequences);
  NIB_TRY_STATUS(runs.take_pages());
  BatchBuilder builder(limits.max_num_batched_tokens, limits.max_num_seqs, 1);
  std::vector<BatchItem> items;
  while (true) {
    const std::vector<Progress*> step = next_step(runs.all(), limits.max_num_batched_tokens);
    if (step.empty()) return {};
    items.clear();
    for (const Progress* run : step) items.push_back(run->item());
    const TensorView logits =
        runner.download(runner.run(builder.build(items, pool.page_size(), limits.mla_mode)));
    const float* row = logits.f32();
    for (std::size_t i = 0; i < step.size(); ++i) {
      NIB_TRY(row, deliver(items[i], step[i]->seq_idx, row, static_cast<std::size_t>(vocab_size), on_row));
      step[i]->num_cached += items[i].count;
    }
  }
}

}  // namespace nibble::engine
