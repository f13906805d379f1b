#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "core/check.h"
#include "core/out_of_memory.h"

namespace nibble {

std::string_view finish_reason_name(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::none: return "none";
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "cancelled";
    case FinishReason::error: return "error";
  }
  return "?";
}

}  // namespace nibble

namespace nibble::engine {
namespace {

Status check_prompt(std::span<const TokenId> prompt, std::int32_t vocab_size, std::int32_t max_model_len) {
  if (prompt.empty()) return bad_input("the prompt is empty: at least one token is needed");
  if (prompt.size() >= static_cast<std::size_t>(max_model_len)) {
    return bad_input(
        fmt::format("the prompt has {} tokens, which leaves no room for a reply in the context of {} tokens "
                    "(max_model_len); shorten it",
                    prompt.size(), max_model_len));
  }
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= vocab_size) {
      return bad_input(fmt::format("token {} of the prompt is id {}, outside the vocabulary [0, {})", i,
                                   prompt[i], vocab_size));
    }
  }
  return {};
}

std::int32_t pages_per_seq(const RunnerLimits& limits) {
  return (limits.max_model_len + limits.page_size - 1) / limits.page_size;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const models::Model& model, Backend backend,
                                               const EngineConfig& config) {
  NIB_CHECK(config.max_num_seqs >= 1 && config.max_num_seqs <= config.runner.max_num_seqs,
            "max_num_seqs {} of {}", config.max_num_seqs, config.runner.max_num_seqs);
  try {
    const CacheShape shape{.num_layers = model.info().num_layers,
                           .num_pages = config.num_pages,
                           .page_size = config.runner.page_size};
    NIB_TRY(Cache cache, Cache::allocate(model.cache_specs(), shape, backend.exec.memory()));
    auto owned = std::make_unique<Cache>(std::move(cache));
    NIB_TRY(ModelRunner runner, ModelRunner::create(model, backend, *owned, config.runner));
    return std::unique_ptr<Engine>(new Engine(model, backend, config, std::move(owned), std::move(runner)));
  } catch (const std::bad_alloc& e) {
    return no_memory(fmt::format("no memory for the tables of {} sequences of {} tokens", config.max_num_seqs,
                                 config.runner.max_model_len),
                     e);
  }
}

Engine::Engine(const models::Model& model, Backend backend, const EngineConfig& config,
               std::unique_ptr<Cache> cache, ModelRunner runner)
    : model_(model),
      config_(config),
      cache_(std::move(cache)),
      runner_(std::move(runner)),
      pool_(config.num_pages, config.runner.page_size),
      scheduler_(pool_, {.max_num_seqs = config.max_num_seqs,
                         .max_num_batched_tokens = config.runner.max_num_batched_tokens}),
      builder_(config.runner.max_num_batched_tokens, config.max_num_seqs, pages_per_seq(config.runner)),
      sampler_(backend, model.info().vocab_size, config.max_num_seqs) {
  const auto num_seqs = static_cast<std::size_t>(config.max_num_seqs);
  items_.reserve(num_seqs);
  batch_ids_.reserve(num_seqs);
}

Result<RequestId> Engine::add(std::span<const TokenId> prompt, const SamplingParams& sampling) {
  const std::int32_t max_model_len = config_.runner.max_model_len;
  NIB_TRY_STATUS(check_prompt(prompt, model_.info().vocab_size, max_model_len));
  NIB_TRY_STATUS(check_sampling(sampling, model_.info().vocab_size));
  try {
    auto request = std::make_unique<Request>();
    request->id = last_id_ + 1;
    request->sampling = sampling;
    request->num_prompt = static_cast<std::int32_t>(prompt.size());
    request->max_tokens =
        request->num_prompt + std::min(sampling.max_tokens, max_model_len - request->num_prompt);
    // Reserved here, so that a step never allocates on a request's behalf.
    request->tokens.reserve(static_cast<std::size_t>(request->max_tokens));
    request->tokens.assign(prompt.begin(), prompt.end());
    request->pages.reserve(static_cast<std::size_t>(pool_.pages_for(request->max_tokens)));
    reserve_events();
    NIB_TRY_STATUS(scheduler_.add(std::move(request)));
    return ++last_id_;
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("no memory to queue a request of {} tokens", prompt.size()));
  }
}

// Room for the end of every request, so that neither cancel() nor step() allocates to report one.
void Engine::reserve_events() {
  const auto num_requests = static_cast<std::size_t>(scheduler_.num_running() + scheduler_.num_waiting()) + 1;
  const std::size_t num_ends = cancelled_.size() + num_requests;
  if (cancelled_.capacity() < num_ends) cancelled_.reserve(2 * num_ends);
  // A step tells of tokens besides.
  const std::size_t num_events = num_ends + static_cast<std::size_t>(config_.max_num_seqs);
  if (events_.capacity() < num_events) events_.reserve(2 * num_events);
}

bool Engine::cancel(RequestId id) {
  if (scheduler_.remove(id) == nullptr) return false;
  cancelled_.push_back(id);
  return true;
}

std::span<const EngineEvent> Engine::step() {
  events_.clear();
  batch_ids_.clear();
  for (const RequestId id : cancelled_) events_.push_back({.request = id, .finish = FinishReason::cancelled});
  cancelled_.clear();
  try {
    run_step();
  } catch (const std::bad_alloc& e) {
    fail_batch(
        no_memory("out of memory while running a step; use fewer sequences, a shorter context or a smaller "
                  "max_num_batched_tokens",
                  e));
  } catch (const std::exception& e) {  // InternalError, DeviceError, or what a thread of a kernel threw
    fail_batch(runtime_error(e.what()));
  }
  return events_;
}

void Engine::run_step() {
  const auto scheduled = scheduler_.schedule();
  if (!scheduled.ok()) {
    // Nothing could ever run again: end all requests rather than spin.
    while (const auto id = scheduler_.oldest()) finish(*id, {}, FinishReason::error, scheduled.error());
    return;
  }
  const std::span<const ScheduledRequest> batch = *scheduled;
  if (batch.empty()) return;
  items_.clear();
  for (const ScheduledRequest& item : batch) {
    const Request& request = *item.request;
    const std::int32_t end = request.num_cached + item.num_tokens;
    batch_ids_.push_back(request.id);
    items_.push_back({.tokens = request.tokens,
                      .begin = request.num_cached,
                      .count = item.num_tokens,
                      .pages = request.pages,
                      .logits_from = item.wants_logits() ? end - 1 : end});
  }
  const TensorView logits = runner_.run(builder_.build(items_, pool_.page_size(), config_.runner.mla_mode));
  sample_batch(batch, logits);
}

void Engine::sample_batch(std::span<const ScheduledRequest> batch, const TensorView& logits) {
  sampler_.clear();
  for (const ScheduledRequest& item : batch) {
    const Request& request = *item.request;
    if (item.wants_logits()) sampler_.add(request.sampling, request.tokens, request.num_prompt);
  }
  const std::span<const TokenId> tokens =
      logits.dim(0) > 0 ? sampler_.sample(logits) : std::span<const TokenId>();
  std::size_t row = 0;
  for (const ScheduledRequest& item : batch) {
    const bool wants_logits = item.wants_logits();
    Scheduler::commit(item);
    if (wants_logits) accept(*item.request, tokens[row++]);
  }
}

void Engine::accept(Request& request, TokenId token) {
  if (token == kernels::kNotFinite) {
    finish(request.id, {}, FinishReason::error,
           runtime_error(
               fmt::format("the logits after token {} are not finite (NaN or infinity): the weights or the "
                           "computation are broken",
                           request.num_tokens() - 1)));
    return;
  }
  if (request.num_generated() == 0) num_prompt_tokens_ += request.num_prompt;
  ++num_generated_tokens_;
  request.tokens.push_back(token);
  if (is_stop_token(request, token)) {
    finish(request.id, token, FinishReason::stop);
  } else if (request.num_tokens() >= request.max_tokens) {
    finish(request.id, token, FinishReason::length);
  } else {
    events_.push_back({.request = request.id, .token = token});
  }
}

bool Engine::is_stop_token(const Request& request, TokenId token) const {
  const auto has = [token](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return has(request.sampling.stop_token_ids) ||
         (!request.sampling.ignore_eos && has(model_.info().eos_token_ids));
}

void Engine::finish(RequestId id, std::optional<TokenId> token, FinishReason reason, Error error) {
  if (scheduler_.remove(id) == nullptr) return;
  events_.push_back({.request = id, .token = token, .finish = reason, .error = std::move(error)});
}

void Engine::fail_batch(const Error& error) {
  for (const RequestId id : batch_ids_) finish(id, {}, FinishReason::error, error);
}

EngineStats Engine::stats() const {
  return {.num_running = scheduler_.num_running(),
          .num_waiting = scheduler_.num_waiting(),
          .pages_used = pool_.num_used(),
          .pages_total = pool_.num_pages(),
          .prompt_tokens = num_prompt_tokens_,
          .generated_tokens = num_generated_tokens_,
          .preemptions = scheduler_.num_preemptions()};
}

}  // namespace nibble::engine
