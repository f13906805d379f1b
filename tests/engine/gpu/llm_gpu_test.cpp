// The public Llm on a GPU: every allocation that can fail does, and what is sampled is what the CPU samples.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/failing.h"
#include "nibble/checkpoint.h"
#include "nibble/llm.h"
#include "tests/support/paths.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

LlmOptions options_of(const std::string& model, const std::string& device) {
  return {.model = testing::test_data("golden") / model,
          .device = device,
          .num_threads = 4,
          .max_model_len = 128,
          .max_num_seqs = 3};
}

std::vector<GenerateRequest> make_requests() {
  const SamplingParams greedy{.max_tokens = 12, .ignore_eos = true};
  SamplingParams filtered = greedy;
  filtered.temperature = 0.9F;
  filtered.top_k = 30;
  filtered.top_p = 0.9F;
  filtered.seed = 11;
  SamplingParams penalized = greedy;
  penalized.repetition_penalty = 1.3F;
  penalized.frequency_penalty = 0.5F;
  return {{.prompt = {3, 4, 5, 6, 7}, .sampling = greedy},
          {.prompt = {8, 9}, .sampling = filtered},
          {.prompt = {10, 11, 12}, .sampling = penalized}};
}

std::vector<std::vector<TokenId>> ids_of(const Result<std::vector<Generation>>& all) {
  std::vector<std::vector<TokenId>> ids;
  if (!all.ok()) return ids;
  for (const Generation& each : *all) ids.push_back(each.token_ids);
  return ids;
}

void expect_told(const Error& error, std::int64_t n) {
  EXPECT_EQ(error.code, ErrorCode::out_of_memory) << "allocation " << n << ": " << error.message;
  EXPECT_THAT(error.message, HasSubstr("bytes")) << "allocation " << n;
  EXPECT_THAT(error.message, HasSubstr("free")) << "allocation " << n;
}

TEST(LlmOnGpu, EveryAllocationThatFailsWhileLoadingIsAnError) {
  std::int64_t num_failures = 0;
  for (std::int64_t n = 0;; ++n) {
    ASSERT_LT(n, 10000);
    kernels::cuda::fail_allocation(n);
    const auto llm = Llm::load(options_of("v3-tiny-nvfp4", "cuda"));
    const bool failed = !kernels::cuda::allocation_will_fail();
    kernels::cuda::fail_allocation(-1);
    if (!failed) {
      EXPECT_TRUE(llm.ok());
      break;
    }
    ASSERT_FALSE(llm.ok()) << "allocation " << n;
    expect_told(llm.error(), n);
    ++num_failures;
  }
  EXPECT_GT(num_failures, 20);
}

TEST(LlmOnGpu, EveryAllocationThatFailsWhileGeneratingIsAnErrorOfThoseRequests) {
  for (const char* model : {"v3-tiny-nvfp4", "v2-tiny"}) {
    std::int64_t num_failures = 0;
    const auto llm = Llm::load(options_of(model, "cuda"));
    ASSERT_TRUE(llm.ok()) << llm.error().message;
    const std::vector<std::vector<TokenId>> want = ids_of((*llm)->generate_batch(make_requests()));
    ASSERT_EQ(want.size(), 3U);
    for (std::int64_t n = 0;; ++n) {
      ASSERT_LT(n, 1000);
      const auto fresh = Llm::load(options_of(model, "cuda"));
      ASSERT_TRUE(fresh.ok()) << fresh.error().message;
      kernels::cuda::fail_allocation(n);
      const auto replies = (*fresh)->generate_batch(make_requests());
      const bool failed = !kernels::cuda::allocation_will_fail();
      kernels::cuda::fail_allocation(-1);
      if (!failed) {
        EXPECT_EQ(ids_of(replies), want);
        break;
      }
      ASSERT_FALSE(replies.ok()) << "allocation " << n;
      expect_told(replies.error(), n);
      ++num_failures;
      EXPECT_EQ(ids_of((*fresh)->generate_batch(make_requests())), want) << "after allocation " << n;
    }
    EXPECT_GT(num_failures, 3) << model;
  }
}

TEST(LlmOnGpu, PlansCountTheNodesOfARecording) {
  const auto plan = plan_model(options_of("v3-tiny-nvfp4", "cuda"));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  std::int64_t in_layers = 0;
  for (const std::int64_t nodes : plan->layer_graph_nodes) {
    EXPECT_GT(nodes, 5);
    in_layers += nodes;
  }
  EXPECT_GT(plan->graph_nodes, in_layers);
}

}  // namespace
}  // namespace nibble
