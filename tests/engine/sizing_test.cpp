#include "engine/sizing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/host_memory.h"
#include "tests/engine/fake_model.h"

namespace nibble::engine {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kPlenty = std::uint64_t{1} << 40;

class SizingTest : public ::testing::Test {
 protected:
  Result<EngineSizes> choose(const SizeRequest& request, std::uint64_t memory = kPlenty) {
    return choose_sizes(model_, {.table = table_, .exec = exec_}, request, memory);
  }

  // Cache of 2 layers x 3 floats a token, scratch of 16 floats a batched token and 3 a cached one.
  testing::FakeModel model_{61, 8192};
  kernels::KernelTable table_;
  kernels::Exec exec_{1};
};

TEST_F(SizingTest, TakesTheModelsContextWhenMemoryIsPlenty) {
  const auto sizes = choose({.max_num_seqs = 3, .page_size = 64});
  ASSERT_TRUE(sizes.ok()) << sizes.error().message;
  EXPECT_EQ(sizes->config.runner.max_model_len, 8192);
  EXPECT_EQ(sizes->config.num_pages, 3 * 128);
  EXPECT_EQ(sizes->cache_bytes, 3U * 8192 * 24);
  EXPECT_EQ(sizes->scratch_bytes, 512U * 64 + 8192 * 12);
}

TEST_F(SizingTest, HalvesTheContextUntilOneSequenceTakesHalfOfTheMemory) {
  // At 8192 tokens: 196608 + 98304 + 32768 bytes; at 4096: 98304 + 49152 + 32768 = 180224.
  const auto sizes = choose({}, 2 * 180224);
  ASSERT_TRUE(sizes.ok()) << sizes.error().message;
  EXPECT_EQ(sizes->config.runner.max_model_len, 4096);
  const auto less = choose({}, 2 * 180224 - 2);
  ASSERT_TRUE(less.ok()) << less.error().message;
  EXPECT_EQ(less->config.runner.max_model_len, 2048);
}

TEST_F(SizingTest, AnExplicitContextMayTakeAllTheMemoryButNotMore) {
  const std::uint64_t need = 8192 * 24 + 8192 * 12 + 512 * 64;
  const auto sizes = choose({.max_model_len = 8192}, need);
  ASSERT_TRUE(sizes.ok()) << sizes.error().message;
  EXPECT_EQ(sizes->config.num_pages, 128);
  const auto refused = choose({.max_model_len = 8192}, need - 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
  EXPECT_THAT(refused.error().message,
              HasSubstr("a context of 8192 tokens needs 196608 bytes of cache and 131072 bytes of scratch"));
}

TEST_F(SizingTest, SeveralSequencesShareWhatFits) {
  // Scratch 32768 + 12288, half is 143360: 98304 for pages of 64 * 24 bytes.
  const auto sizes = choose({.max_model_len = 1024, .max_num_seqs = 16}, 2 * 143360);
  ASSERT_TRUE(sizes.ok()) << sizes.error().message;
  EXPECT_EQ(sizes->config.num_pages, 64) << "of 256 for 16 full sequences";
}

TEST_F(SizingTest, SaysWhenNothingFits) {
  const auto refused = choose({}, 1000);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
  EXPECT_THAT(refused.error().message, HasSubstr("a context of 256 tokens"));
}

TEST_F(SizingTest, LimitsHoldExactly) {
  EXPECT_TRUE(choose({.max_model_len = 8192}).ok());
  EXPECT_FALSE(choose({.max_model_len = 8193}).ok());
  EXPECT_TRUE(choose({.max_model_len = 1, .max_num_seqs = 4096, .max_num_batched_tokens = 4096}).ok());
  EXPECT_FALSE(choose({.max_model_len = 1, .max_num_seqs = 4097, .max_num_batched_tokens = 8192}).ok());
  EXPECT_FALSE(choose({.max_num_batched_tokens = 65537}).ok());
  EXPECT_FALSE(choose({.page_size = 4097}).ok());
}

TEST_F(SizingTest, PageSizeMustHoldWholeEntries) {
  model_.mutable_specs()[0].tokens_per_entry = 4;
  EXPECT_TRUE(choose({.max_model_len = 64, .page_size = 8}).ok());
  const auto refused = choose({.max_model_len = 64, .page_size = 6});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              HasSubstr("page_size 6 is not a multiple of the 4 tokens of a 'tokens' cache entry"));
}

TEST(HostMemory, IsKnown) {
  const HostMemory memory = host_memory();
  EXPECT_GT(memory.total, std::uint64_t{64} << 20);
  EXPECT_GT(memory.available, 0U);
  EXPECT_LE(memory.available, memory.total);
}

}  // namespace
}  // namespace nibble::engine
