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
    EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, 1, length), MlaMode::absorb) << length;
  }
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, 512, 512), MlaMode::naive);
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, 512, 2048), MlaMode::naive);
  // A short chunk far into a context would rebuild everything for a few rows.
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, 64, 2048), MlaMode::absorb);
}

TEST(MlaPlan, MemoryBoundsTheAutomaticChoiceOnly) {
  const std::int64_t longest = max_automatic_naive_length(v3());
  EXPECT_LE(naive_mla_scratch_bytes(v3(), longest), kMaxNaiveScratchBytes);
  EXPECT_GT(naive_mla_scratch_bytes(v3(), longest + 1), kMaxNaiveScratchBytes);
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, longest, longest), MlaMode::naive);
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::automatic, longest + 1, longest + 1), MlaMode::absorb);
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::naive, 1, 10 * longest), MlaMode::naive);
  EXPECT_EQ(choose_mla_mode(v3(), MlaMode::absorb, 512, 512), MlaMode::absorb);
}

}  // namespace
}  // namespace nibble::layers
