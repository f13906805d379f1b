#include "engine/score.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "core/check.h"
#include "engine/perplexity.h"
#include "tests/engine/fixture.h"
#include "tests/support/compare.h"

namespace nibble::engine {
namespace {

using ::testing::ElementsAre;
using testing::EngineTest;
using ::testing::HasSubstr;
using testing::SeenSequence;

class ScoreTest : public EngineTest {
 protected:
  static std::vector<TokenId> sequence(int length, int start = 0) {
    std::vector<TokenId> tokens(static_cast<std::size_t>(length));
    std::iota(tokens.begin(), tokens.end(), start);
    return tokens;
  }

  // All rows of all sequences, checked against the model itself.
  void expect_rows(const std::vector<KnownSequence>& sequences) {
    std::vector<std::int32_t> next;
    for (const KnownSequence& s : sequences) next.push_back(s.logits_from);
    const Status status =
        run(sequences, [&](std::size_t seq_idx, std::int32_t t, std::span<const float> row) -> Status {
          EXPECT_EQ(t, next[seq_idx]++);
          const auto known = sequences[seq_idx].tokens.first(static_cast<std::size_t>(t) + 1);
          EXPECT_TRUE(testing::same_floats(row, model_.logits_after(known)))
              << "sequence " << seq_idx << ", token " << t;
          return {};
        });
    EXPECT_TRUE(status.ok()) << status.error().message;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(next[i], static_cast<std::int32_t>(sequences[i].tokens.size())) << "sequence " << i;
    }
    EXPECT_EQ(engine_->stats().pages_used, 0);
  }

  Status run(const std::vector<KnownSequence>& sequences, const LogitsRowCallback& on_row) {
    return score(engine_->runner(), engine_->pool(), model_.info().vocab_size, sequences, on_row);
  }
};

TEST_F(ScoreTest, GivesEveryRowWhateverTheChunks) {
  make_engine({.max_num_batched_tokens = 16, .page_size = 3});
  const std::vector<TokenId> tokens = sequence(40);
  for (const std::int32_t chunk : {0, 1, 7, 16, 100})
    expect_rows({{.tokens = tokens, .prefill_chunk = chunk}});
  for (const std::int32_t decode_from : {0, 1, 5, 39, 40, 100}) {
    expect_rows({{.tokens = tokens, .decode_from = decode_from}});
    expect_rows({{.tokens = tokens, .prefill_chunk = 3, .decode_from = decode_from}});
  }
  expect_rows({{.tokens = tokens, .logits_from = 33}});
}

TEST_F(ScoreTest, FeedsTheChunksAskedFor) {
  make_engine({.max_num_batched_tokens = 16});
  const std::vector<TokenId> tokens = sequence(12);
  expect_rows({{.tokens = tokens, .prefill_chunk = 4, .decode_from = 10}});
  ASSERT_EQ(model_.seen.size(), 5U);
  EXPECT_THAT(model_.seen[0].seqs, ElementsAre(SeenSequence{0, 4}));
  EXPECT_THAT(model_.seen[2].seqs, ElementsAre(SeenSequence{8, 2}));
  EXPECT_THAT(model_.seen[3].seqs, ElementsAre(SeenSequence{10, 1}));
  EXPECT_EQ(model_.seen[3].num_prefill, 0);
}

TEST_F(ScoreTest, RunsTwoSequencesInTheSameBatches) {
  make_engine({.max_num_seqs = 1, .max_num_batched_tokens = 16});
  const std::vector<TokenId> a = sequence(30);
  const std::vector<TokenId> b = sequence(9, 20);
  expect_rows({{.tokens = a}, {.tokens = b}});
  EXPECT_THAT(model_.seen[0].seqs, ElementsAre(SeenSequence{0, 8}, SeenSequence{0, 8}));
  EXPECT_THAT(model_.seen[1].seqs, ElementsAre(SeenSequence{8, 8}, SeenSequence{8, 1}));
  EXPECT_THAT(model_.seen[2].seqs, ElementsAre(SeenSequence{16, 14}));
  expect_rows({{.tokens = a, .decode_from = 5}, {.tokens = b, .prefill_chunk = 7, .decode_from = 8}});
}

TEST_F(ScoreTest, WorksWithOneTokenAStep) {
  make_engine({.max_num_seqs = 1, .max_num_batched_tokens = 1});
  expect_rows({{.tokens = sequence(5)}, {.tokens = sequence(7)}});
}

TEST_F(ScoreTest, SaysWhenThePagesDoNotSuffice) {
  make_engine({.page_size = 4, .num_pages = 8});
  const std::vector<TokenId> tokens = sequence(20);
  const Status status =
      run({{.tokens = tokens}, {.tokens = tokens}}, [](auto, auto, auto) { return Status(); });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::bad_input);
  EXPECT_THAT(status.error().message,
              HasSubstr("40 tokens in all do not fit in the cache of 8 pages of 4 tokens"));
  EXPECT_EQ(engine_->stats().pages_used, 0);
}

TEST_F(ScoreTest, StopsAtNonFiniteLogitsErrorsAndExceptionsWithoutLeaks) {
  make_engine();
  model_.nan_after = 6;
  const std::vector<TokenId> tokens = sequence(10);
  const Status nan = run({{.tokens = tokens}}, [](auto, auto, auto) { return Status(); });
  ASSERT_FALSE(nan.ok());
  EXPECT_THAT(nan.error().message, HasSubstr("logits after token 6 are not finite"));

  const Status stopped = run({{.tokens = tokens}}, [](auto, auto, auto) {
    return Status(Error{ErrorCode::interrupted, "x"});
  });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::interrupted);

  model_.on_forward = [](int) { throw DeviceError("gone"); };
  EXPECT_THROW(static_cast<void>(run({{.tokens = tokens}}, [](auto, auto, auto) { return Status(); })),
               DeviceError);
  EXPECT_EQ(engine_->stats().pages_used, 0);
}

TEST(NegativeLogLikelihood, IsMinusLogSoftmax) {
  const std::vector<float> row{1, 2, 3};
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  EXPECT_NEAR(negative_log_likelihood(row, 1), std::log(sum) - 2.0, 1e-12);
  const std::vector<float> large{1000, 900};
  EXPECT_NEAR(negative_log_likelihood(large, 1), 100.0, 1e-9);
}

class PerplexityTest : public ScoreTest {
 protected:
  // The definition, token by token: each scored once, by the first window that holds it, given what
  // that window holds before it.
  TokenNll expected(const std::vector<TokenId>& tokens, const Windows& windows) const {
    const auto text_tokens = static_cast<std::size_t>(windows.text_tokens());
    TokenNll total;
    for (std::size_t target = 0; target < tokens.size(); ++target) {
      std::size_t begin = 0;
      while (begin + text_tokens <= target) begin += static_cast<std::size_t>(windows.stride);
      std::vector<TokenId> context;
      if (windows.bos) context.push_back(*windows.bos);
      for (std::size_t i = begin; i < target; ++i) context.push_back(tokens[i]);
      if (context.empty()) continue;
      total.nll += negative_log_likelihood(model_.logits_after(context), tokens[target]);
      ++total.tokens;
    }
    return total;
  }

  Result<TokenNll> run_windows(const std::vector<TokenId>& tokens, const Windows& windows) {
    return token_nll(engine_->runner(), engine_->pool(), model_.info().vocab_size,
                     cut_windows(tokens, windows), [](std::size_t) { return Status(); });
  }
};

TEST_F(PerplexityTest, ScoresEveryTokenOnce) {
  make_engine({.max_num_batched_tokens = 16, .max_model_len = 64});
  const std::vector<TokenId> tokens = sequence(50);
  const std::vector<Windows> cases{{64, 64, {}}, {50, 50, {}}, {20, 20, {}}, {20, 10, {}}, {20, 7, {}},
                                   {2, 1, {}},   {2, 2, {}},   {49, 49, {}}, {25, 1, {}},  {20, 19, 60},
                                   {20, 5, 60},  {2, 1, 60},   {64, 63, 60}, {51, 50, 60}};
  for (const Windows& windows : cases) {
    const auto got = run_windows(tokens, windows);
    ASSERT_TRUE(got.ok()) << got.error().message;
    const TokenNll want = expected(tokens, windows);
    EXPECT_EQ(got->tokens, want.tokens) << windows.window << ", " << windows.stride;
    EXPECT_NEAR(got->nll, want.nll, 1e-9 * want.nll) << windows.window << ", " << windows.stride;
  }
}

TEST_F(PerplexityTest, OverlappingWindowsScoreAllButTheFirst) {
  make_engine();
  const auto got = run_windows(sequence(50), {.window = 20, .stride = 10});
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->tokens, 49);
  const auto apart = run_windows(sequence(50), {.window = 20, .stride = 20});
  ASSERT_TRUE(apart.ok());
  EXPECT_EQ(apart->tokens, 47) << "the first token of each of three windows has nothing before it";
}

TEST_F(PerplexityTest, TellsOfEachWindowAndCanBeStopped) {
  make_engine();
  std::vector<std::size_t> done;
  const std::vector<TokenId> tokens = sequence(50);
  const auto result =
      token_nll(engine_->runner(), engine_->pool(), 61, cut_windows(tokens, {.window = 20, .stride = 20}),
                [&](std::size_t n) -> Status {
                  done.push_back(n);
                  if (n == 40) return Error{ErrorCode::interrupted, "enough"};
                  return {};
                });
  EXPECT_THAT(done, ElementsAre(20, 40));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::interrupted);
}

}  // namespace
}  // namespace nibble::engine
