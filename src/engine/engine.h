// Engine: runs many sequences on one model, a ragged batch per step: schedule, run, sample, commit,
// tell.
//
// One thread calls it. A failure inside a step (out of memory, device, our own bug) ends the requests
// of that step with an error and leaves the engine usable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/cache.h"
#include "engine/model_runner.h"
#include "engine/page_pool.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "models/model.h"
#include "nibble/engine.h"

namespace nibble::engine {

struct EngineConfig {
  RunnerLimits runner;
  std::int32_t max_num_seqs = 1;  // requests running at once, <= runner.max_num_seqs
  std::int32_t num_pages = 64;    // of runner.page_size tokens
};

class Engine {
 public:
  // `model` and `backend` must outlive the engine. out_of_memory if cache or scratch cannot be had.
  static Result<std::unique_ptr<Engine>> create(const models::Model& model, Backend backend,
                                                const EngineConfig& config);

  // Queues a request. bad_input: empty prompt, ids outside the vocabulary, no room in the context for
  // one more token, sampling parameters out of range, or more pages than the cache has.
  // max_tokens is clipped to the context.
  Result<RequestId> add(std::span<const TokenId> prompt, const SamplingParams& sampling);

  // Ends a request now and frees its pages; the next step() reports FinishReason::cancelled. False if
  // there is no such request (any more).
  bool cancel(RequestId id);

  // Requests are queued or running, or events wait to be fetched.
  [[nodiscard]] bool has_work() const { return scheduler_.has_work() || !cancelled_.empty(); }

  // Runs one step. Every request has exactly one event with a finish reason, its last. The events
  // are valid until the next call.
  std::span<const EngineEvent> step();

  [[nodiscard]] EngineStats stats() const;
  [[nodiscard]] std::size_t cache_bytes() const { return cache_->bytes(); }
  [[nodiscard]] std::size_t scratch_size() const { return runner_.scratch_size(); }

  // For feeding known tokens through the same model, cache and batches (score.h) between steps.
  [[nodiscard]] ModelRunner& runner() { return runner_; }
  [[nodiscard]] PagePool& pool() { return pool_; }

  // Page accounting; an error tells what is inconsistent.
  [[nodiscard]] Status check() const { return scheduler_.check(); }

 private:
  Engine(const models::Model& model, Backend backend, const EngineConfig& config,
         std::unique_ptr<Cache> cache, ModelRunner runner);

  void reserve_events();
  void run_step();
  void sample_batch(std::span<const ScheduledRequest> batch, const TensorView& logits);
  void accept(Request& request, TokenId token);
  void finish(RequestId id, std::optional<TokenId> token, FinishReason reason, Error error = {});
  void fail_batch(const Error& error);
  [[nodiscard]] bool is_stop_token(const Request& request, TokenId token) const;

  const models::Model& model_;
  EngineConfig config_;
  std::unique_ptr<Cache> cache_;  // behind a pointer: the runner keeps its address
  ModelRunner runner_;
  PagePool pool_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  Sampler sampler_;
  std::vector<BatchItem> items_;
  std::vector<RequestId> batch_ids_;  // requests of the step that is running
  std::vector<EngineEvent> events_;
  std::vector<RequestId> cancelled_;  // not yet reported
  RequestId last_id_ = 0;
  std::int64_t num_prompt_tokens_ = 0;
  std::int64_t num_generated_tokens_ = 0;
};

}  // namespace nibble::engine
