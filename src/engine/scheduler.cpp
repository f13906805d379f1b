#include "engine/scheduler.h"

#include <algorithm>

#include "core/check.h"

namespace nibble::engine {
namespace {

// A description lists no more requests than a person reads.
constexpr std::size_t kMaxDescribed = 8;

}  // namespace

Scheduler::Scheduler(PagePool& pool, SchedulerLimits limits) : pool_(pool), limits_(limits) {
  NIB_CHECK(limits.max_num_seqs >= 1 && limits.max_num_batched_tokens >= limits.max_num_seqs,
            "max_num_seqs {}, max_num_batched_tokens {}", limits.max_num_seqs, limits.max_num_batched_tokens);
  decodes_.reserve(static_cast<std::size_t>(limits.max_num_seqs));
  step_.reserve(static_cast<std::size_t>(limits.max_num_seqs));
  running_.reserve(static_cast<std::size_t>(limits.max_num_seqs));
}

Status Scheduler::add(std::unique_ptr<Request> request) {
  // The last token is never fed back, so it needs no cache entry.
  const std::int64_t needed = pool_.pages_for(std::max(request->num_tokens(), request->max_tokens - 1));
  if (needed > pool_.num_pages()) {
    return bad_input(
        fmt::format("the request needs {} cache pages of {} tokens ({} prompt tokens, at most {} generated), "
                    "the cache has {}; ask for fewer tokens",
                    needed, pool_.page_size(), request->num_prompt, request->max_tokens - request->num_prompt,
                    pool_.num_pages()));
  }
  const std::size_t capacity = waiting_.size() + running_.size() + 1;
  if (waiting_.capacity() < capacity) waiting_.reserve(2 * capacity);
  waiting_.push_back(std::move(request));
  return {};
}

Result<std::span<const ScheduledRequest>> Scheduler::schedule() {
  decodes_.clear();
  step_.clear();
  std::int32_t budget = limits_.max_num_batched_tokens;
  const std::int64_t preemptions_before = num_preemptions_;
  schedule_decodes(budget);
  schedule_prefills(budget);
  // Pages are short right after a preemption: admitting now would only preempt again.
  if (num_preemptions_ == preemptions_before) admit(budget);
  // A prompt's chunk of one token, which counts as a decode, can only be the last: it used up the budget.
  step_.insert(step_.end(), decodes_.begin(), decodes_.end());
  if (step_.empty() && has_work()) return runtime_error("cannot schedule any request: " + describe());
  return std::span<const ScheduledRequest>(step_);
}

void Scheduler::schedule_decodes(std::int32_t& budget) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Request& request = *running_[i];
    if (!request.is_decode()) continue;
    bool has_page = pool_.grow(request.pages, request.num_tokens());
    while (!has_page && i < running_.size()) {
      preempt_youngest();  // which is this request itself once all younger ones are gone
      has_page = i < running_.size() && pool_.grow(request.pages, request.num_tokens());
    }
    if (!has_page) return;
    decodes_.push_back({&request, 1});
    --budget;
  }
}

void Scheduler::schedule_prefills(std::int32_t& budget) {
  for (const auto& request : running_) {
    if (request->is_decode()) continue;
    const std::int32_t num_tokens = std::min(budget, request->num_uncached());
    if (num_tokens == 0) return;
    step_.push_back({request.get(), num_tokens});
    budget -= num_tokens;
  }
}

void Scheduler::admit(std::int32_t& budget) {
  while (!waiting_.empty() && budget > 0 && num_running() < limits_.max_num_seqs) {
    Request& request = *waiting_.front();
    if (pool_.pages_for(request.num_tokens()) + num_running() > pool_.num_free()) return;
    if (!pool_.grow(request.pages, request.num_tokens())) return;
    const std::int32_t num_tokens = std::min(budget, request.num_uncached());
    step_.push_back({&request, num_tokens});
    budget -= num_tokens;
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
}

void Scheduler::preempt_youngest() {
  std::unique_ptr<Request> request = std::move(running_.back());
  running_.pop_back();
  pool_.release(request->pages);
  request->num_cached = 0;
  waiting_.insert(waiting_.begin(), std::move(request));  // older than all that wait
  ++num_preemptions_;
}

std::unique_ptr<Request> Scheduler::remove(RequestId id) {
  for (auto* queue : {&running_, &waiting_}) {
    const auto it = std::find_if(queue->begin(), queue->end(), [id](const auto& r) { return r->id == id; });
    if (it == queue->end()) continue;
    std::unique_ptr<Request> request = std::move(*it);
    queue->erase(it);
    pool_.release(request->pages);
    return request;
  }
  return nullptr;
}

std::optional<RequestId> Scheduler::oldest() const {
  if (!running_.empty()) return running_.front()->id;
  if (!waiting_.empty()) return waiting_.front()->id;
  return {};
}

std::string Scheduler::describe_request(const Request& request) const {
  return fmt::format(" #{} ({} prompt + {} generated tokens, {} cached, {} pages, needs {})", request.id,
                     request.num_prompt, request.num_generated(), request.num_cached, request.pages.size(),
                     pool_.pages_for(request.num_tokens()));
}

std::string Scheduler::describe() const {
  std::string text = fmt::format(
      "{} of {} pages of {} tokens are free; max_num_seqs {}, max_num_batched_tokens {}", pool_.num_free(),
      pool_.num_pages(), pool_.page_size(), limits_.max_num_seqs, limits_.max_num_batched_tokens);
  for (const auto* queue : {&running_, &waiting_}) {
    text += fmt::format("; {} {}:", queue->size(), queue == &running_ ? "running" : "waiting");
    for (std::size_t i = 0; i < std::min(queue->size(), kMaxDescribed); ++i)
      text += describe_request(*(*queue)[i]);
    if (queue->size() > kMaxDescribed) text += fmt::format(" and {} more", queue->size() - kMaxDescribed);
  }
  return text;
}

Status Scheduler::check() const {
  std::vector<const std::vector<PageId>*> tables;
  RequestId last_id = 0;
  for (const auto* queue : {&running_, &waiting_}) {
    for (const auto& request : *queue) {
      tables.push_back(&request->pages);
      if (request->id <= last_id) return runtime_error("requests are out of order: " + describe());
      last_id = request->id;
      const auto held = static_cast<std::int64_t>(request->pages.size()) * pool_.page_size();
      const bool right = queue == &waiting_ ? request->pages.empty() && request->num_cached == 0
                                            : held >= request->num_cached && request->num_uncached() > 0;
      if (!right) return runtime_error("a request's pages and tokens disagree: " + describe());
    }
  }
  return pool_.check(tables);
}

}  // namespace nibble::engine
