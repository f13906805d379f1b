// EngineTest: an Engine on a FakeModel, whose pages are accounted for after every test.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "kernels/ref/table.h"
#include "tests/engine/fake_model.h"

namespace nibble::testing {

// What became of a request.
struct Outcome {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::none;
  Error error;
  int num_ends = 0;  // end events; must be 1
};

struct EngineShape {
  std::int32_t max_num_seqs = 4;
  std::int32_t max_num_batched_tokens = 32;
  std::int32_t max_model_len = 64;
  std::int32_t page_size = 4;
  std::int32_t num_pages = 64;
};

class EngineTest : public ::testing::Test {
 protected:
  void make_engine(const EngineShape& shape = {}) {
    engine::EngineConfig config{.runner = {.max_num_batched_tokens = shape.max_num_batched_tokens,
                                           .max_num_seqs = std::max(2, shape.max_num_seqs),
                                           .max_model_len = shape.max_model_len,
                                           .page_size = shape.page_size},
                                .max_num_seqs = shape.max_num_seqs,
                                .num_pages = shape.num_pages};
    auto made = engine::Engine::create(model_, backend_, config);
    ASSERT_TRUE(made.ok()) << made.error().message;
    engine_ = std::move(*made);
  }

  RequestId add(const std::vector<TokenId>& prompt, const SamplingParams& sampling = {}) {
    const auto id = engine_->add(prompt, sampling);
    EXPECT_TRUE(id.ok()) << id.error().message;
    return id.ok() ? *id : 0;
  }

  // Greedy, no end but length.
  RequestId add_greedy(const std::vector<TokenId>& prompt, std::int32_t max_tokens) {
    return add(prompt, {.max_tokens = max_tokens, .ignore_eos = true});
  }

  void step() {
    for (const EngineEvent& event : engine_->step()) {
      Outcome& outcome = outcomes_[event.request];
      EXPECT_EQ(outcome.num_ends, 0) << "an event after the end of request " << event.request;
      if (event.token) outcome.tokens.push_back(*event.token);
      if (event.finish == FinishReason::none) continue;
      ++outcome.num_ends;
      outcome.finish = event.finish;
      outcome.error = event.error;
    }
    const Status status = engine_->check();
    EXPECT_TRUE(status.ok()) << status.error().message;
  }

  void run_all(int max_steps = 10000) {
    for (int i = 0; i < max_steps && engine_->has_work(); ++i) step();
    EXPECT_FALSE(engine_->has_work()) << "still busy";
  }

  void TearDown() override {
    if (!engine_) return;
    const Status status = engine_->check();
    EXPECT_TRUE(status.ok()) << status.error().message;
    if (engine_->has_work()) return;
    EXPECT_EQ(engine_->stats().pages_used, 0);
    for (const auto& [id, outcome] : outcomes_) EXPECT_EQ(outcome.num_ends, 1) << "request " << id;
  }

  FakeModel model_;
  const kernels::KernelTable table_ = kernels::ref::kernels();
  kernels::Exec exec_{1};
  engine::Backend backend_{.table = table_, .exec = exec_};
  std::unique_ptr<engine::Engine> engine_;
  std::map<RequestId, Outcome> outcomes_;
};

}  // namespace nibble::testing
