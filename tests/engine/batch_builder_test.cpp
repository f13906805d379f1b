#include "engine/batch_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/check.h"

namespace nibble::engine {
namespace {

using ::testing::ElementsAre;

const std::vector<TokenId> kTokensA{10, 11, 12, 13, 14};
const std::vector<TokenId> kTokensB{20, 21, 22};
const std::vector<PageId> kPagesA{7, 2, 5};
const std::vector<PageId> kPagesB{3, 9};

TEST(BatchBuilder, MixesAPrefillChunkAndADecode) {
  BatchBuilder builder(8, 2, 3);
  const std::vector<BatchItem> items{
      {.tokens = kTokensA, .begin = 1, .count = 3, .pages = kPagesA, .logits_from = 3},
      {.tokens = kTokensB, .begin = 2, .count = 1, .pages = kPagesB, .logits_from = 2},
  };
  const layers::ForwardBatch batch = builder.build(items, 2, MlaMode::naive);
  EXPECT_THAT(batch.token_ids, ElementsAre(11, 12, 13, 22));
  EXPECT_THAT(batch.positions, ElementsAre(1, 2, 3, 2));
  EXPECT_THAT(batch.cu_seqlens_q, ElementsAre(0, 3, 4));
  EXPECT_THAT(batch.seq_lens, ElementsAre(4, 3));
  EXPECT_EQ(batch.max_pages, 2);
  EXPECT_THAT(batch.page_tables, ElementsAre(7, 2, 3, 9));
  EXPECT_THAT(batch.slot_mapping, ElementsAre(7 * 2 + 1, 2 * 2 + 0, 2 * 2 + 1, 9 * 2 + 0));
  EXPECT_THAT(batch.logit_rows, ElementsAre(2, 3));
  EXPECT_EQ(batch.num_prefill, 1);
  EXPECT_EQ(batch.mla_mode, MlaMode::naive);
}

TEST(BatchBuilder, FillsUnusedPageTableEntriesWithNoPage) {
  BatchBuilder builder(8, 2, 3);
  const std::vector<BatchItem> items{
      {.tokens = kTokensA, .begin = 0, .count = 5, .pages = kPagesA, .logits_from = 5},
      {.tokens = kTokensB, .begin = 0, .count = 1, .pages = kPagesB, .logits_from = 0},
  };
  const layers::ForwardBatch batch = builder.build(items, 2, MlaMode::automatic);
  EXPECT_THAT(batch.page_tables, ElementsAre(7, 2, 5, 3, -1, -1));
  EXPECT_THAT(batch.logit_rows, ElementsAre(5)) << "the first chunk wants none";
  EXPECT_EQ(batch.num_prefill, 2) << "a first chunk of one token is a prefill";
}

TEST(BatchBuilder, ReusesItsStorage) {
  BatchBuilder builder(8, 2, 3);
  const BatchItem item{.tokens = kTokensA, .begin = 0, .count = 5, .pages = kPagesA, .logits_from = 0};
  const std::int32_t* before = builder.build({&item, 1}, 2, MlaMode::automatic).token_ids.data();
  const layers::ForwardBatch batch = builder.build({&item, 1}, 2, MlaMode::automatic);
  EXPECT_EQ(batch.token_ids.data(), before);
  EXPECT_EQ(batch.num_tokens(), 5);
  EXPECT_THAT(batch.logit_rows, ElementsAre(0, 1, 2, 3, 4));
}

TEST(BatchBuilder, ChecksWhatItIsGiven) {
  BatchBuilder builder(8, 2, 3);
  const auto build = [&](std::vector<BatchItem> items) {
    return builder.build(items, 2, MlaMode::automatic);
  };
  const BatchItem prefill{.tokens = kTokensA, .begin = 0, .count = 2, .pages = kPagesA};
  const BatchItem decode{.tokens = kTokensB, .begin = 1, .count = 1, .pages = kPagesB};
  EXPECT_NO_THROW(build({prefill, decode}));
  EXPECT_THROW(build({}), InternalError);
  EXPECT_THROW(build({decode, prefill}), InternalError) << "prefills come first";
  EXPECT_THROW(build({{.tokens = kTokensB, .begin = 2, .count = 2, .pages = kPagesB}}), InternalError);
  EXPECT_THROW(build({{.tokens = kTokensB, .begin = 0, .count = 3, .pages = std::span(kPagesB).first(1)}}),
               InternalError);
}

}  // namespace
}  // namespace nibble::engine
