#include "engine/engine.h"

#include <gmock/gmock.h>

#include <new>

#include "core/check.h"
#include "tests/engine/fixture.h"
#include "tests/support/random.h"

namespace nibble::engine {
namespace {

using ::testing::ElementsAre;
using testing::EngineTest;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::SeenSequence;

std::vector<TokenId> random_prompt(testing::Random& random, std::int64_t length,
                                   std::int32_t vocab_size = 61) {
  std::vector<TokenId> prompt;
  for (std::int64_t i = 0; i < length; ++i) prompt.push_back(static_cast<TokenId>(random.below(vocab_size)));
  return prompt;
}

TEST_F(EngineTest, RunsOneRequestToItsLength) {
  make_engine();
  const RequestId id = add_greedy({3, 1, 4}, 10);
  run_all();
  EXPECT_EQ(outcomes_[id].tokens, model_.greedy_reply({3, 1, 4}, 10));
  EXPECT_EQ(outcomes_[id].finish, FinishReason::length);
  EXPECT_EQ(engine_->stats().prompt_tokens, 3);
  EXPECT_EQ(engine_->stats().generated_tokens, 10);
}

TEST_F(EngineTest, MixesPrefillsAndDecodesInOneBatch) {
  make_engine({.max_num_batched_tokens = 8});
  const RequestId a = add_greedy({1, 2}, 5);
  step();
  const RequestId b = add_greedy(std::vector<TokenId>(10, 7), 4);
  run_all();
  EXPECT_EQ(outcomes_[a].tokens, model_.greedy_reply({1, 2}, 5));
  EXPECT_EQ(outcomes_[b].tokens, model_.greedy_reply(std::vector<TokenId>(10, 7), 4));
  ASSERT_GE(model_.seen.size(), 3U);
  EXPECT_THAT(model_.seen[1].seqs, ElementsAre(SeenSequence{0, 7}, SeenSequence{2, 1}));
  EXPECT_EQ(model_.seen[1].num_prefill, 1);
  EXPECT_EQ(model_.seen[1].num_logits, 1) << "a prompt that goes on wants no logits";
  EXPECT_THAT(model_.seen[2].seqs, ElementsAre(SeenSequence{7, 3}, SeenSequence{3, 1}));
  EXPECT_EQ(model_.seen[2].num_logits, 2);
}

TEST_F(EngineTest, AnswersDoNotDependOnTheChunkSize) {
  testing::Random random(1);
  const std::vector<TokenId> prompt = random_prompt(random, 37);
  for (const std::int32_t chunk : {1, 2, 7, 36, 37, 64}) {
    make_engine({.max_num_seqs = 1, .max_num_batched_tokens = chunk, .max_model_len = 64, .page_size = 5});
    outcomes_.clear();
    const RequestId id = add_greedy(prompt, 8);
    run_all();
    EXPECT_EQ(outcomes_[id].tokens, model_.greedy_reply(prompt, 8)) << "chunks of " << chunk;
  }
}

TEST_F(EngineTest, PreemptedRequestsGiveTheSameAnswers) {
  make_engine({.max_num_seqs = 4,
               .max_num_batched_tokens = 16,
               .max_model_len = 40,
               .page_size = 2,
               .num_pages = 24});
  testing::Random random(2);
  std::map<RequestId, std::vector<TokenId>> prompts;
  for (int i = 0; i < 12; ++i) {
    const std::vector<TokenId> prompt = random_prompt(random, 1 + random.below(12));
    prompts[add_greedy(prompt, 20)] = prompt;
  }
  run_all();
  EXPECT_GT(engine_->stats().preemptions, 0);
  for (const auto& [id, prompt] : prompts)
    EXPECT_EQ(outcomes_[id].tokens, model_.greedy_reply(prompt, 20)) << id;
}

TEST_F(EngineTest, SampledTokensDoNotDependOnTheBatch) {
  testing::Random random(3);
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 8; ++i) prompts.push_back(random_prompt(random, 1 + random.below(10)));
  const auto sampling = [](std::size_t i) {
    return SamplingParams{.temperature = 1.0F,
                          .top_k = 20,
                          .top_p = 0.9F,
                          .presence_penalty = 0.5F,
                          .repetition_penalty = 1.1F,
                          .seed = i,
                          .max_tokens = 12};
  };
  std::vector<std::vector<TokenId>> alone;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    make_engine();
    outcomes_.clear();
    const RequestId id = add(prompts[i], sampling(i));
    run_all();
    alone.push_back(outcomes_[id].tokens);
  }
  make_engine({.max_num_batched_tokens = 9, .page_size = 3, .num_pages = 22});
  outcomes_.clear();
  std::vector<RequestId> ids;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ids.push_back(add(prompts[i], sampling(i)));
    step();
  }
  run_all();
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(outcomes_[ids[i]].tokens, alone[i]) << i;
  EXPECT_NE(alone[0], alone[1]);
}

TEST_F(EngineTest, StopsAtTheModelsEndTokenUnlessToldToIgnoreIt) {
  const std::vector<TokenId> reply = model_.greedy_reply({5}, 6);
  model_.mutable_info().eos_token_ids = {60, reply[2]};
  make_engine();
  const RequestId stops = add({5}, {.max_tokens = 6});
  const RequestId ignores = add_greedy({5}, 6);
  run_all();
  EXPECT_EQ(outcomes_[stops].finish, FinishReason::stop);
  EXPECT_THAT(outcomes_[stops].tokens, ElementsAre(reply[0], reply[1], reply[2])) << "the end token is told";
  EXPECT_EQ(outcomes_[ignores].tokens, reply);
}

TEST_F(EngineTest, StopsAtTheRequestsOwnTokens) {
  const std::vector<TokenId> reply = model_.greedy_reply({5}, 6);
  make_engine();
  const RequestId id = add({5}, {.max_tokens = 6, .ignore_eos = true, .stop_token_ids = {reply[1]}});
  run_all();
  EXPECT_EQ(outcomes_[id].finish, FinishReason::stop);
  EXPECT_THAT(outcomes_[id].tokens, ElementsAre(reply[0], reply[1]));
}

TEST_F(EngineTest, ClipsTheReplyToTheContext) {
  make_engine({.max_model_len = 16});
  const RequestId id = add_greedy(std::vector<TokenId>(10, 1), 1000);
  run_all();
  EXPECT_EQ(outcomes_[id].tokens.size(), 6U);
  EXPECT_EQ(outcomes_[id].finish, FinishReason::length);
}

TEST_F(EngineTest, RefusesBadPrompts) {
  make_engine({.max_model_len = 16});
  const auto message = [&](const std::vector<TokenId>& prompt) {
    const auto id = engine_->add(prompt, {});
    if (id.ok()) return std::string("ok");
    EXPECT_EQ(id.error().code, ErrorCode::bad_input);
    return id.error().message;
  };
  EXPECT_THAT(message({}), HasSubstr("the prompt is empty"));
  EXPECT_EQ(message(std::vector<TokenId>(15, 1)), "ok");
  EXPECT_THAT(message(std::vector<TokenId>(16, 1)), HasSubstr("the prompt has 16 tokens"));
  EXPECT_THAT(message({1, 61}), HasSubstr("token 1 of the prompt is id 61, outside the vocabulary [0, 61)"));
  EXPECT_THAT(message({-1}), HasSubstr("is id -1"));
  const auto bad_sampling = engine_->add(std::vector<TokenId>{1}, {.temperature = -1});
  ASSERT_FALSE(bad_sampling.ok());
  EXPECT_THAT(bad_sampling.error().message, HasSubstr("temperature"));
  run_all();
}

TEST_F(EngineTest, RefusesWhatTheCacheCannotHold) {
  make_engine({.max_model_len = 64, .page_size = 4, .num_pages = 4});
  const auto id = engine_->add(std::vector<TokenId>(10, 1), {.max_tokens = 20});
  ASSERT_FALSE(id.ok());
  EXPECT_EQ(id.error().code, ErrorCode::bad_input);
  EXPECT_THAT(
      id.error().message,
      HasSubstr("8 cache pages of 4 tokens (10 prompt tokens, at most 20 generated), the cache has 4"));
}

TEST_F(EngineTest, CancelFreesPagesAtOnceAndIsReportedOnce) {
  make_engine({.max_num_seqs = 2});
  const RequestId a = add_greedy({1, 2, 3, 4, 5}, 30);
  const RequestId b = add_greedy({6}, 4);
  const RequestId waiting = add_greedy({7}, 4);
  step();
  const std::int64_t used = engine_->stats().pages_used;
  EXPECT_TRUE(engine_->cancel(a));
  EXPECT_EQ(engine_->stats().pages_used, used - 2);
  EXPECT_FALSE(engine_->cancel(a));
  EXPECT_TRUE(engine_->cancel(waiting));
  EXPECT_FALSE(engine_->cancel(99));
  run_all();
  EXPECT_EQ(outcomes_[a].finish, FinishReason::cancelled);
  EXPECT_EQ(outcomes_[a].tokens.size(), 1U);
  EXPECT_EQ(outcomes_[waiting].finish, FinishReason::cancelled);
  EXPECT_EQ(outcomes_[b].tokens, model_.greedy_reply({6}, 4));
}

TEST_F(EngineTest, RandomCancelsLeakNoPages) {
  make_engine(
      {.max_num_seqs = 3, .max_num_batched_tokens = 8, .max_model_len = 32, .page_size = 2, .num_pages = 20});
  testing::Random random(4);
  std::map<RequestId, std::vector<TokenId>> prompts;
  for (int round = 0; round < 2000; ++round) {
    if (random.below(4) == 0) {
      const std::vector<TokenId> prompt = random_prompt(random, 1 + random.below(10));
      prompts[add_greedy(prompt, static_cast<std::int32_t>(1 + random.below(12)))] = prompt;
    }
    if (!prompts.empty() && random.below(10) == 0) {
      engine_->cancel(prompts.rbegin()->first -
                      std::min<RequestId>(prompts.size() - 1, static_cast<RequestId>(random.below(6))));
    }
    if (engine_->has_work()) step();
  }
  run_all();
  int num_cancelled = 0;
  for (const auto& [id, prompt] : prompts) {
    const Outcome& outcome = outcomes_[id];
    EXPECT_EQ(outcome.tokens, model_.greedy_reply(prompt, static_cast<int>(outcome.tokens.size())));
    num_cancelled += outcome.finish == FinishReason::cancelled ? 1 : 0;
  }
  EXPECT_GT(num_cancelled, 5);
  EXPECT_EQ(engine_->stats().pages_used, 0);
}

TEST_F(EngineTest, NonFiniteLogitsEndTheirRequestAlone) {
  const std::vector<TokenId> reply = model_.greedy_reply({5}, 8);
  model_.nan_after = reply[3];
  make_engine();
  const RequestId bad = add_greedy({5}, 8);
  const RequestId good = add_greedy({60, 59}, 3);
  run_all();
  EXPECT_EQ(outcomes_[bad].finish, FinishReason::error);
  EXPECT_EQ(outcomes_[bad].tokens, std::vector<TokenId>(reply.begin(), reply.begin() + 4));
  EXPECT_EQ(outcomes_[bad].error.code, ErrorCode::runtime);
  EXPECT_THAT(outcomes_[bad].error.message,
              HasSubstr("logits after token 4 are not finite (NaN or infinity)"));
  EXPECT_EQ(outcomes_[good].finish, FinishReason::length);
}

TEST_F(EngineTest, AFailureInAStepEndsItsRequestsAndNothingElse) {
  struct Case {
    std::function<void()> raise;
    ErrorCode code;
    const char* text;
  };
  const std::vector<Case> cases{
      {[] { throw std::bad_alloc(); }, ErrorCode::out_of_memory, "out of memory"},
      {[] { throw DeviceError("device lost"); }, ErrorCode::runtime, "device lost"},
      {[] { NIB_CHECK(1 + 1 == 3, "shapes {} and {}", 4, 5); }, ErrorCode::runtime, "shapes 4 and 5"},
  };
  for (const Case& c : cases) {
    model_ = testing::FakeModel();
    model_.on_forward = [&](int forward) {
      if (forward == 2) c.raise();
    };
    make_engine({.max_num_seqs = 2});
    outcomes_.clear();
    const RequestId a = add_greedy({1}, 6);
    const RequestId b = add_greedy({2, 3}, 6);
    const RequestId waiting = add_greedy({4}, 6);
    run_all();
    for (const RequestId failed : {a, b}) {
      EXPECT_EQ(outcomes_[failed].finish, FinishReason::error);
      EXPECT_EQ(outcomes_[failed].error.code, c.code);
      EXPECT_THAT(outcomes_[failed].error.message, HasSubstr(c.text));
      EXPECT_EQ(outcomes_[failed].tokens.size(), 2U);
    }
    EXPECT_EQ(outcomes_[waiting].tokens, model_.greedy_reply({4}, 6)) << "the engine goes on";
    EXPECT_EQ(engine_->stats().pages_used, 0);
  }
}

TEST_F(EngineTest, RequestsThatCanNeverRunAgainAreEndedNotSpunOn) {
  make_engine({.page_size = 4, .num_pages = 16});
  std::vector<PageId> taken;
  ASSERT_TRUE(engine_->pool().grow(taken, 64));
  const RequestId id = add_greedy({1, 2}, 3);
  for (const EngineEvent& event : engine_->step()) {
    EXPECT_EQ(event.request, id);
    EXPECT_EQ(event.finish, FinishReason::error);
    EXPECT_THAT(event.error.message, HasSubstr("cannot schedule"));
  }
  EXPECT_FALSE(engine_->has_work());
  engine_->pool().release(taken);
}

TEST_F(EngineTest, ScratchIsSizedOnceForTheLargestBatches) {
  make_engine({.max_num_seqs = 3, .max_num_batched_tokens = 24, .max_model_len = 64});
  // FakeModel takes 16 floats per token, then 3 per cached token of one sequence.
  EXPECT_EQ(engine_->scratch_size(), (24U * 16 + 64 * 3) * sizeof(float));
  for (int i = 0; i < 6; ++i) add_greedy(std::vector<TokenId>(40, i), 20);
  run_all();
  EXPECT_EQ(engine_->scratch_size(), (24U * 16 + 64 * 3) * sizeof(float));
  for (const auto& [id, outcome] : outcomes_)
    EXPECT_EQ(outcome.finish, FinishReason::length) << outcome.error.message;
}

}  // namespace
}  // namespace nibble::engine
