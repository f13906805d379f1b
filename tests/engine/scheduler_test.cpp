#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "tests/support/random.h"

namespace nibble::engine {
namespace {

using ::testing::HasSubstr;

class SchedulerTest : public ::testing::Test {
 protected:
  struct Item {
    RequestId id;
    std::int32_t num_tokens;
    friend bool operator==(const Item&, const Item&) = default;
    friend void PrintTo(const Item& item, std::ostream* out) {
      *out << '#' << item.id << 'x' << item.num_tokens;
    }
  };

  void make(std::int32_t num_pages, std::int32_t page_size, SchedulerLimits limits) {
    pool_.emplace(num_pages, page_size);
    scheduler_.emplace(*pool_, limits);
  }

  Status add(std::int32_t num_prompt, std::int32_t max_generated = 8) {
    auto request = std::make_unique<Request>();
    request->id = next_id_++;
    request->num_prompt = num_prompt;
    request->tokens.assign(static_cast<std::size_t>(num_prompt), 1);
    request->max_tokens = num_prompt + max_generated;
    return scheduler_->add(std::move(request));
  }

  // One step of an engine whose model always answers 1; what was run.
  std::vector<Item> step() {
    const auto scheduled = scheduler_->schedule();
    EXPECT_TRUE(scheduled.ok()) << scheduled.error().message;
    if (!scheduled.ok()) return {};
    std::vector<Item> items;
    std::vector<RequestId> ended;
    for (const ScheduledRequest& item : *scheduled) {
      Request& request = *item.request;
      items.push_back({request.id, item.num_tokens});
      EXPECT_GE(static_cast<std::int64_t>(request.pages.size()) * pool_->page_size(),
                request.num_cached + item.num_tokens);
      const bool wants_logits = item.wants_logits();
      Scheduler::commit(item);
      if (!wants_logits) continue;
      request.tokens.push_back(1);
      if (request.num_tokens() == request.max_tokens) ended.push_back(request.id);
    }
    for (const RequestId id : ended) EXPECT_NE(scheduler_->remove(id), nullptr);
    const Status status = scheduler_->check();
    EXPECT_TRUE(status.ok()) << status.error().message;
    return items;
  }

  std::optional<PagePool> pool_;
  std::optional<Scheduler> scheduler_;
  RequestId next_id_ = 1;
};

TEST_F(SchedulerTest, NothingToDoIsAnEmptyStep) {
  make(8, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 8});
  EXPECT_TRUE(step().empty());
}

TEST_F(SchedulerTest, SplitsALongPromptAndGoesOnWithDecodes) {
  make(16, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 8});
  ASSERT_TRUE(add(19, 2).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 8}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 8}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 3}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}}));
  EXPECT_TRUE(step().empty());
  EXPECT_EQ(pool_->num_used(), 0);
}

TEST_F(SchedulerTest, DecodesGoOnWhileAPromptIsFed) {
  make(64, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 8});
  ASSERT_TRUE(add(3).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 3}}));
  ASSERT_TRUE(add(20).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{2, 7}, {1, 1}})) << "prefill chunks come first in a batch";
  EXPECT_EQ(step(), (std::vector<Item>{{2, 7}, {1, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{2, 6}, {1, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}}));
}

TEST_F(SchedulerTest, AOneTokenChunkOfAPromptCountsAsDecode) {
  make(64, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 4});
  ASSERT_TRUE(add(5).ok());
  ASSERT_TRUE(add(9).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 4}}));
  EXPECT_EQ(step(), (std::vector<Item>{{2, 3}, {1, 1}}));
}

TEST_F(SchedulerTest, AChunkCutToOneTokenStandsWithTheDecodes) {
  make(64, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 2});
  ASSERT_TRUE(add(1).ok());
  ASSERT_TRUE(add(9).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{2, 1}, {1, 1}}));
}

TEST_F(SchedulerTest, AdmitsInOrderOfArrivalAndNeverLetsOneOvertake) {
  make(6, 4, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  ASSERT_TRUE(add(12, 2).ok());  // 3 pages
  ASSERT_TRUE(add(16, 2).ok());  // 4 pages: must wait for the first
  ASSERT_TRUE(add(2, 2).ok());   // would fit, but came later
  EXPECT_EQ(step(), (std::vector<Item>{{1, 12}}));
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{2, 16}, {3, 2}}));
}

TEST_F(SchedulerTest, KeepsToMaxNumSeqs) {
  make(64, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 64});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(add(2, 2).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 2}, {2, 2}}));
  EXPECT_EQ(scheduler_->num_running(), 2);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
}

TEST_F(SchedulerTest, PreemptsTheYoungestWhenPagesRunOut) {
  make(5, 2, {.max_num_seqs = 3, .max_num_batched_tokens = 16});
  ASSERT_TRUE(add(4, 6).ok());  // 2 pages, grows to 5
  ASSERT_TRUE(add(2, 4).ok());  // 1 page, grows to 3
  EXPECT_EQ(step(), (std::vector<Item>{{1, 4}, {2, 2}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}})) << "both take a third and a second page";
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}})) << "no page left: the second gives its own back";
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}})) << "the first ends here";
  EXPECT_EQ(step(), (std::vector<Item>{{2, 5}})) << "prompt and reply so far are computed again";
  EXPECT_TRUE(step().empty());
}

TEST_F(SchedulerTest, PreemptsTheAskerIfItIsTheYoungest) {
  make(5, 4, {.max_num_seqs = 3, .max_num_batched_tokens = 16});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(add(4, 3).ok());
  EXPECT_EQ(step(), (std::vector<Item>{{1, 4}, {2, 4}, {3, 4}}));
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}})) << "two pages for three: the third gives way";
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
  EXPECT_EQ(step(), (std::vector<Item>{{1, 1}, {2, 1}}));
  EXPECT_EQ(step(), (std::vector<Item>{{3, 5}}));
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  make(4, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 16});
  EXPECT_TRUE(add(10, 7).ok()) << "16 tokens are cached at most: the last is never fed";
  const Status status = add(10, 8);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::bad_input);
  EXPECT_THAT(status.error().message, HasSubstr("5 cache pages"));
}

TEST_F(SchedulerTest, CannotScheduleTellsTheWholeState) {
  make(4, 4, {.max_num_seqs = 2, .max_num_batched_tokens = 16});
  ASSERT_TRUE(add(10, 2).ok());
  std::vector<PageId> taken;  // somebody else holds the pages
  ASSERT_TRUE(pool_->grow(taken, 16));
  const auto scheduled = scheduler_->schedule();
  ASSERT_FALSE(scheduled.ok());
  const std::string& message = scheduled.error().message;
  EXPECT_EQ(scheduled.error().code, ErrorCode::runtime);
  EXPECT_THAT(message, HasSubstr("0 of 4 pages of 4 tokens are free"));
  EXPECT_THAT(message, HasSubstr("max_num_seqs 2, max_num_batched_tokens 16"));
  EXPECT_THAT(message, HasSubstr("0 running"));
  EXPECT_THAT(message,
              HasSubstr("1 waiting: #1 (10 prompt + 0 generated tokens, 0 cached, 0 pages, needs 3)"));
  pool_->release(taken);
  EXPECT_EQ(step(), (std::vector<Item>{{1, 10}}));
}

TEST_F(SchedulerTest, RemoveFreesPagesOfRunningAndForgetsWaiting) {
  make(8, 4, {.max_num_seqs = 1, .max_num_batched_tokens = 16});
  ASSERT_TRUE(add(9).ok());
  ASSERT_TRUE(add(9).ok());
  step();
  EXPECT_EQ(pool_->num_used(), 3);
  EXPECT_NE(scheduler_->remove(1), nullptr);
  EXPECT_EQ(pool_->num_used(), 0);
  EXPECT_NE(scheduler_->remove(2), nullptr);
  EXPECT_EQ(scheduler_->remove(2), nullptr);
  EXPECT_FALSE(scheduler_->has_work());
}

// Random arrivals and cancels under shortage: all end, in bounded time, with exact accounting (checked
// by step()), and the oldest is never kept waiting.
TEST_F(SchedulerTest, RandomTracesEnd) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    testing::Random random(seed);
    next_id_ = 1;
    const auto max_num_seqs = static_cast<std::int32_t>(1 + random.below(5));
    make(static_cast<std::int32_t>(6 + random.below(10)), static_cast<std::int32_t>(1 + random.below(4)),
         {.max_num_seqs = max_num_seqs,
          .max_num_batched_tokens = max_num_seqs + static_cast<std::int32_t>(random.below(6))});
    int num_steps = 0;
    for (int arrivals = 30; arrivals > 0 || scheduler_->has_work(); ++num_steps) {
      if (arrivals > 0 && random.below(2) == 0) {
        --arrivals;
        // What is too large is refused and not part of the trace.
        if (!add(static_cast<std::int32_t>(1 + random.below(12)),
                 static_cast<std::int32_t>(1 + random.below(6)))
                 .ok())
          continue;
      }
      if (random.below(20) == 0)
        scheduler_->remove(static_cast<RequestId>(random.below(static_cast<std::int64_t>(next_id_))));
      if (!scheduler_->has_work()) continue;
      const auto oldest = scheduler_->oldest();
      const std::vector<Item> items = step();
      EXPECT_TRUE(
          std::any_of(items.begin(), items.end(), [&](const Item& item) { return item.id == *oldest; }))
          << "seed " << seed;
      ASSERT_LT(num_steps, 5000) << "seed " << seed;
    }
    EXPECT_EQ(pool_->num_used(), 0);
  }
}

}  // namespace
}  // namespace nibble::engine
