// What is known without weights: plans, dummy weights, inspection, digests, cost figures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "models/registry.h"
#include "nibble/checkpoint.h"
#include "tests/models/editable_checkpoint.h"
#include "tests/models/paged_runner.h"
#include "tests/support/paths.h"

namespace nibble::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

kernels::Device& device() {
  static const std::unique_ptr<kernels::Device> instance =
      kernels::make_device({.num_threads = 2, .isa = "scalar"}).value();
  return *instance;
}

std::filesystem::path golden(const std::string& name) { return test_data("golden") / name; }

models::LoadOptions dummy(const std::string& model, const std::string& format) {
  return {.config = golden(model) / "config.json", .dummy = true, .quant = {.quantization = format}};
}

std::vector<float> dummy_logits(const models::LoadOptions& options) {
  const auto model = models::load_model(options, device());
  EXPECT_TRUE(model.ok()) << model.error().message;
  PagedRunner runner(**model, device(), {{1, 2, 3, 4, 5}}, {});
  runner.run({{0, 0, 5}});
  return runner.logits(0);
}

TEST(Dummy, EveryFormatRunsAndIsDeterministic) {
  std::vector<std::vector<float>> seen;
  for (const char* format : {"bf16", "f16", "f32", "fp8", "mxfp4", "nvfp4"}) {
    SCOPED_TRACE(format);
    const std::vector<float> logits = dummy_logits(dummy("v3-tiny-fp8", format));
    EXPECT_TRUE(std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }));
    EXPECT_EQ(logits, dummy_logits(dummy("v3-tiny-fp8", format)));
    EXPECT_THAT(seen, Not(Contains(logits)));
    seen.push_back(logits);
  }
}

TEST(Dummy, AutoFollowsTheConfig) {
  const auto plan = models::plan_model(dummy("v3-tiny-nvfp4", "auto"), device());
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(plan->shape->info().formats, "nvfp4");
}

TEST(Dummy, CanBeShortenedAndSaysSo) {
  models::LoadOptions options = dummy("v2lite-tiny", "mxfp4");
  options.num_hidden_layers = 2;
  const auto model = models::load_model(options, device());
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->info().num_layers, 2);
  EXPECT_THAT((*model)->info().notes, Contains(HasSubstr("2 of 3 layers")));
}

TEST(Dummy, UnknownFormatAndUnfitWidthAreRefused) {
  const auto unknown = models::load_model(dummy("v2lite-tiny", "int3"), device());
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::unsupported);
  EXPECT_THAT(unknown.error().message, HasSubstr("int3"));
  EXPECT_THAT(unknown.error().message, HasSubstr("supported: bf16"));

  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.config["moe_intermediate_size"] = 72;
  const auto unfit = models::load_model(
      {.config = checkpoint.write() / "config.json", .dummy = true, .quant = {.quantization = "mxfp4"}},
      device());
  ASSERT_FALSE(unfit.ok());
  EXPECT_THAT(unfit.error().message, HasSubstr("72 inputs"));
}

TEST(Plan, AgreesWithWhatLoadingGives) {
  for (const char* name : {"v2-tiny", "v2lite-tiny", "v3-tiny-fp8", "v3-tiny-nvfp4", "v3-tiny-ct-mxfp4"}) {
    SCOPED_TRACE(name);
    const models::LoadOptions options{.dir = golden(name)};
    const auto plan = models::plan_model(options, device());
    const auto model = models::load_model(options, device());
    ASSERT_TRUE(plan.ok() && model.ok());
    const models::ModelInfo& planned = plan->shape->info();
    const models::ModelInfo& loaded = (*model)->info();
    EXPECT_EQ(plan->weight_bytes, loaded.weight_bytes);
    EXPECT_EQ(planned.num_parameters, loaded.num_parameters);
    EXPECT_EQ(planned.formats, loaded.formats);
    EXPECT_EQ(planned.eos_token_ids, loaded.eos_token_ids);
    for (const std::int64_t tokens : {1, 2, 100}) {
      EXPECT_EQ(plan->shape->active_bytes(tokens, 50).total(), (*model)->active_bytes(tokens, 50).total());
      EXPECT_EQ(plan->shape->prefill_flops(tokens), (*model)->prefill_flops(tokens));
    }
    std::uint64_t row_bytes = 0;
    std::int64_t row_params = 0;
    for (const models::WeightPlanRow& row : plan->weights) {
      row_bytes += row.packed_bytes;
      row_params += row.num_parameters;
    }
    EXPECT_EQ(row_bytes, plan->weight_bytes);
    EXPECT_EQ(row_params, planned.num_parameters);
  }
}

// Figures of V2-Lite's shape, counted by hand from its tensor inventory.
TEST(Plan, CostsOfASmallModelByHand) {
  const auto plan = models::plan_model({.dir = golden("v2lite-tiny")}, device());
  ASSERT_TRUE(plan.ok());
  // hidden 128, 4 heads of 32 + 16 / 32, latent 64 + 16, 3 layers, dense 256, experts 8 of 64 and 2
  // shared, 3 per token, vocabulary 256.
  const std::int64_t attention = 192 * 128 + 80 * 128 + 256 * 64 + 128 * 128;
  const std::int64_t dense = 3 * 256 * 128;
  const std::int64_t expert = 3 * 64 * 128;
  const std::int64_t shared = 2 * expert;
  const std::int64_t router = 8 * 128;
  const std::int64_t norms = 3 * (2 * 128 + 64) + 128;
  const std::int64_t vocab = 256 * 128;
  EXPECT_EQ(plan->shape->info().num_parameters,
            3 * attention + dense + 2 * (8 * expert + shared + router) + norms + 2 * vocab);

  const std::int64_t per_token = 3 * attention + dense + 2 * (3 * expert + shared + router);
  const double pairs = 10.0 * 11.0 / 2.0;
  const double attended = 3 * 4 * (48 + 32) * pairs;
  EXPECT_DOUBLE_EQ(plan->shape->prefill_flops(10),
                   2.0 * (10.0 * static_cast<double>(per_token) + vocab + attended));

  const std::size_t bf16 = 2;
  const auto bytes = [&](std::int64_t params) { return static_cast<std::size_t>(params) * bf16; };
  const std::int64_t packed_router = 16 * 128;  // rows are packed by sixteen
  const std::size_t every_step = bytes(3 * attention + dense + 2 * (shared + packed_router) + vocab) +
                                 static_cast<std::size_t>(norms) * sizeof(float);
  const models::ActiveBytes one = plan->shape->active_bytes(1, 7);
  EXPECT_EQ(one.weights, every_step + bytes(2 * 3 * expert) + bytes(128));
  EXPECT_EQ(one.cache, 7U * 3U * 80U * sizeof(float));
  // An expert is missed by a token with probability 5 / 8.
  const double used = (1.0 - std::pow(5.0 / 8.0, 4)) * static_cast<double>(bytes(2 * 8 * expert));
  EXPECT_EQ(plan->shape->active_bytes(4, 0).weights,
            every_step + static_cast<std::size_t>(std::llround(used)) + 4 * bytes(128));
}

TEST(Inspect, SumsUpWhatIsThere) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  checkpoint.add_f32("model.layers.2.enorm.weight", {4}, 1.0F);
  const auto summary = inspect_checkpoint(checkpoint.write());
  ASSERT_TRUE(summary.ok()) << summary.error().message;
  EXPECT_EQ(summary->model_type, "deepseek_v3");
  EXPECT_EQ(summary->num_layers, 2);
  EXPECT_EQ(summary->tensors.size(), checkpoint.tensors.size());
  std::uint64_t bytes = 0;
  std::int64_t num_tensors = 0;
  for (const FormatSummary& row : summary->formats) {
    bytes += row.bytes;
    num_tensors += row.num_tensors;
  }
  EXPECT_EQ(bytes, summary->bytes);
  EXPECT_EQ(num_tensors, static_cast<std::int64_t>(summary->tensors.size()));
  const auto unused = std::find_if(summary->formats.begin(), summary->formats.end(),
                                   [](const FormatSummary& row) { return row.format == "unused"; });
  ASSERT_NE(unused, summary->formats.end());
  EXPECT_EQ(unused->bytes, 16U);
  EXPECT_THAT(summary->notes, Contains(HasSubstr("multi-token prediction")));
}

TEST(Inspect, RefusesWhatLoadingRefuses) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.tensors.erase("lm_head.weight");
  const auto summary = inspect_checkpoint(checkpoint.write());
  ASSERT_FALSE(summary.ok());
  EXPECT_EQ(summary.error().code, ErrorCode::bad_input);
  EXPECT_THAT(summary.error().message, HasSubstr("lm_head.weight"));
}

TEST(Digest, NamesEachShardByItsContents) {
  const EditableCheckpoint checkpoint("v2lite-tiny");
  const std::filesystem::path dir = checkpoint.write();
  const auto first = digest_checkpoint(dir);
  ASSERT_TRUE(first.ok()) << first.error().message;
  ASSERT_EQ(first->size(), 1U);
  EXPECT_EQ(first->front().file, "model.safetensors");
  EXPECT_EQ(first->front().bytes, std::filesystem::file_size(dir / "model.safetensors"));
  EXPECT_EQ(first->front().sha256.size(), 64U);
  {
    std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x01');
  }
  const auto second = digest_checkpoint(dir);
  ASSERT_TRUE(second.ok());
  EXPECT_NE(first->front().sha256, second->front().sha256);
  const auto stopped = digest_checkpoint(dir, [](auto&&...) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::interrupted);
}

}  // namespace
}  // namespace nibble::testing
