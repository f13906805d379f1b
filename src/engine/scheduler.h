// Scheduler: decides which tokens of which requests run in the next step. Knows tokens and pages,
// not tensors.
//
// Rules, in order:
//  1. Requests run in order of arrival and are never overtaken on admission.
//  2. Running decodes go first, one token each, so that a long prompt never stalls them.
//  3. What is left of max_num_batched_tokens goes to prompts, in chunks, oldest first.
//  4. Admission takes the pages of all tokens known at once, and leaves one free page for each
//     running sequence; so only decodes ever need a page while running.
//  5. If a decode finds no page, the youngest running request is preempted: its pages are freed and
//     its tokens are computed again later (results do not change). The oldest always makes progress,
//     because add() refuses what could not run alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/page_pool.h"
#include "engine/request.h"
#include "nibble/result.h"

namespace nibble::engine {

struct SchedulerLimits {
  std::int32_t max_num_seqs = 1;
  std::int32_t max_num_batched_tokens = 512;  // >= max_num_seqs
};

// Tokens [request->num_cached, request->num_cached + num_tokens) run in this step.
struct ScheduledRequest {
  Request* request = nullptr;
  std::int32_t num_tokens = 0;
  // The chunk ends with the last known token: its logits choose the next one.
  [[nodiscard]] bool wants_logits() const { return num_tokens == request->num_uncached(); }
};

class Scheduler {
 public:
  // `pool` must outlive this.
  Scheduler(PagePool& pool, SchedulerLimits limits);

  // Puts a request at the end of the queue; its id must be new and above all earlier ones.
  // bad_input if it can never run: more pages at its full length than the pool has.
  Status add(std::unique_ptr<Request> request);

  // Chooses the next step, prefill chunks first, then decodes. Empty if there is no work; a runtime
  // error that describes the whole state if there is work but nothing can run. The result is valid
  // until the next schedule(), its pointers until their request is removed.
  Result<std::span<const ScheduledRequest>> schedule();

  // Marks the scheduled tokens of `item` as cached.
  static void commit(const ScheduledRequest& item) { item.request->num_cached += item.num_tokens; }

  // Removes a request wherever it is and frees its pages. Null if there is no such request.
  std::unique_ptr<Request> remove(RequestId id);

  // The request that came first of those still here.
  [[nodiscard]] std::optional<RequestId> oldest() const;

  [[nodiscard]] bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  [[nodiscard]] std::int64_t num_running() const { return static_cast<std::int64_t>(running_.size()); }
  [[nodiscard]] std::int64_t num_waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  [[nodiscard]] std::int64_t num_preemptions() const { return num_preemptions_; }
  [[nodiscard]] std::string describe() const;

  // Page accounting and the order of the queues.
  [[nodiscard]] Status check() const;

 private:
  void schedule_decodes(std::int32_t& budget);
  void schedule_prefills(std::int32_t& budget);
  void admit(std::int32_t& budget);
  void preempt_youngest();
  [[nodiscard]] std::string describe_request(const Request& request) const;

  PagePool& pool_;
  SchedulerLimits limits_;
  // Both in order of arrival, all running ones older. Capacity is reserved on add(), so that moving
  // a request from one to the other cannot fail half-way.
  std::vector<std::unique_ptr<Request>> waiting_;
  std::vector<std::unique_ptr<Request>> running_;
  std::vector<ScheduledRequest> decodes_;
  std::vector<ScheduledRequest> step_;
  std::int64_t num_preemptions_ = 0;
};

}  // namespace nibble::engine
