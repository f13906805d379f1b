#include "layers/mla_plan.h"

#include <gtest/gtest.h>

namespace nibble::layers {
namespace {

MlaConfig v3() {
  return {.hidden_size = 7168,
          .num_attention_heads = 128,
          .q_lora_rank = 1536,
          .kv_lora_rank = 512,
          .qk_nope_head_dim = 128,
          .qk_rope_head_dim = 64,
          .v_head_dim = 128};
}

TEST(MlaPlan, CostsByHand) {
  // Two rows at the end of five positions: 4 + 5 visible pairs.
  EXPECT_DOUBLE_EQ(naive_mla_cost(v3(), 2, 5), 128.0 * (5 * 256 * 512 + 9 * (192 + 128)));
  EXPECT_DOUBLE_EQ(absorbed_mla_cost(v3(), 2, 5), 128.0 * (2 * 256 * 512 + 9 * (2 * 512 + 64)));
}

TEST(MlaPlan, DecodeIsAbsorbedAndLongPrefillNaive) {
  for (const std::int64_t length : {1, 100, 100'000}) {
    EXPECT_EQ(choose_mla_mode(v3(), kHostMlaRule, MlaMode::automatic, 1, length), MlaMode::absorb) << length;
  }
  EXPECT_EQ(choose_mla_mode(v3(), kHostMlaRule, MlaMode::automatic, 512, 512), MlaMode::naive);
  EXPECT_EQ(choose_mla_mode(v3(), kHostMlaRule, MlaMode::automatic, 512, 2048), MlaMode::naive);
  // A short chunk far into a context would rebuild everything for a few rows.
  EXPECT_EQ(choose_mla_mode(v3(), kHostMlaRule, MlaMode::automatic, 64, 2048), MlaMode::absorb);
}

TEST(MlaPlan, MemoryBoundsTheAutomaticChoiceOnly) {
  for (const MlaRule& rule : {kHostMlaRule, kGpuMlaRule}) {
    const std::int64_t longest = max_automatic_naive_length(v3(), rule);
    EXPECT_LE(naive_mla_scratch_bytes(v3(), longest), rule.max_naive_scratch_bytes);
    EXPECT_GT(naive_mla_scratch_bytes(v3(), longest + 1), rule.max_naive_scratch_bytes);
    EXPECT_EQ(choose_mla_mode(v3(), rule, MlaMode::automatic, longest, longest), MlaMode::naive);
    EXPECT_EQ(choose_mla_mode(v3(), rule, MlaMode::automatic, longest + 1, longest + 1), MlaMode::absorb);
    EXPECT_EQ(choose_mla_mode(v3(), rule, MlaMode::naive, 1, 10 * longest), MlaMode::naive);
    EXPECT_EQ(choose_mla_mode(v3(), rule, MlaMode::absorb, 512, 512), MlaMode::absorb);
  }
}

// Where an H100 was measured: chunks of 512 and more are rebuilt, 64 rows behind 4096 are not.
TEST(MlaPlan, OnAGpuLongChunksAreRebuiltBehindLongContexts) {
  for (const std::int64_t rows : {512, 2048, 4096}) {
    EXPECT_EQ(choose_mla_mode(v3(), kGpuMlaRule, MlaMode::automatic, rows, rows), MlaMode::naive) << rows;
    EXPECT_EQ(choose_mla_mode(v3(), kGpuMlaRule, MlaMode::automatic, rows, rows + 4096), MlaMode::naive)
        << rows;
  }
  EXPECT_EQ(choose_mla_mode(v3(), kGpuMlaRule, MlaMode::automatic, 64, 64 + 4096), MlaMode::absorb);
}

}  // namespace
}  // namespace nibble::layers
