// Every golden model directory: supported ones open completely, with the formats their tensors have;
// the others are refused with the reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "formats/checkpoint.h"
#include "tests/formats/model_tensors.h"
#include "tests/support/paths.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::map<std::string, fs::path> golden_models() {
  std::map<std::string, fs::path> models;
  for (const fs::path& root : testing::golden_roots()) {
    if (!fs::exists(root)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
      if (fs::exists(entry.path() / "config.json")) models.emplace(entry.path().filename(), entry.path());
    }
  }
  return models;
}

// What each directory must turn into: the matrix formats seen, or the code and text of the refusal.
struct Expectation {
  std::set<quant::WeightFormat> formats;
  std::string refusal;
};

const std::map<std::string, Expectation>& expectations() {
  using quant::WeightFormat;
  static const std::map<std::string, Expectation> table = {
      {"v2-tiny", {{WeightFormat::bf16}, ""}},
      {"v2lite-tiny", {{WeightFormat::bf16}, ""}},
      {"v3-tiny", {{WeightFormat::bf16}, ""}},
      {"v3-tiny-fp8", {{WeightFormat::bf16, WeightFormat::fp8}, ""}},
      {"v3-tiny-nvfp4", {{WeightFormat::bf16, WeightFormat::nvfp4}, ""}},
      {"v3-tiny-ct-mxfp4", {{WeightFormat::bf16, WeightFormat::mxfp4}, ""}},
      {"v3-tiny-ct-int8", {{WeightFormat::bf16, WeightFormat::int8}, ""}},
      {"v3-tiny-ct-w4a16", {{WeightFormat::bf16, WeightFormat::int4}, ""}},
      {"v3-tiny-gptq", {{WeightFormat::bf16, WeightFormat::int4}, ""}},
      {"v3-tiny-gptq-asym-actorder", {{WeightFormat::bf16, WeightFormat::int4}, ""}},
      {"v3-tiny-awq", {{WeightFormat::bf16, WeightFormat::int4}, ""}},
      {"v32-tiny", {{}, "deepseek_v32"}},
      {"v4-tiny", {{}, "deepseek_v4"}},
      {"v4-tiny-mxfp4", {{}, "deepseek_v4"}},
  };
  return table;
}

void expect_opens(const fs::path& dir, const std::set<quant::WeightFormat>& formats) {
  Result<Checkpoint> checkpoint = Checkpoint::open(dir);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  std::set<quant::WeightFormat> seen;
  std::set<std::string> used;
  const ExpectedTensors expected = expected_tensors(checkpoint->config());
  for (const ExpectedMatrix& m : expected.matrices) {
    const Result<MatrixSource> source = find_matrix(*checkpoint, m.prefix, m.n, m.k);
    ASSERT_TRUE(source.ok()) << source.error().message;
    seen.insert(source->matrix.format);
    for (const TensorInfo* tensor : source->tensors)
      EXPECT_TRUE(used.insert(tensor->name).second) << tensor->name;
  }
  for (const ExpectedVector& v : expected.vectors) EXPECT_TRUE(used.insert(v.name).second);
  EXPECT_EQ(seen, formats);
  EXPECT_EQ(used.size(), checkpoint->tensors().size()) << "every tensor has one reader";
  const Status walked = walk_checkpoint(dir);
  EXPECT_TRUE(walked.ok()) << walked.error().message;
}

TEST(Golden, EveryModelDirectory) {
  const auto models = golden_models();
  if (models.empty()) GTEST_SKIP() << "no golden models beside the tests";
  for (const auto& [name, dir] : models) {
    SCOPED_TRACE(name);
    const auto row = expectations().find(name);
    if (row == expectations().end()) continue;
    if (row->second.refusal.empty()) {
      expect_opens(dir, row->second.formats);
      continue;
    }
    const Result<Checkpoint> checkpoint = Checkpoint::open(dir);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_EQ(checkpoint.error().code, ErrorCode::unsupported) << checkpoint.error().message;
    EXPECT_THAT(checkpoint.error().message, HasSubstr(row->second.refusal));
    EXPECT_THAT(checkpoint.error().message, HasSubstr("supported: "));
  }
}

TEST(Golden, ConfigFieldsOfV3) {
  const auto models = golden_models();
  if (!models.contains("v3-tiny")) GTEST_SKIP() << "no v3-tiny beside the tests";
  const Result<HfConfig> config = load_hf_config(models.at("v3-tiny") / "config.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->vocab_size, 512);
  EXPECT_EQ(config->q_lora_rank, 96);
  EXPECT_EQ(config->n_group, 4);
  EXPECT_EQ(config->topk_group, 2);
  EXPECT_EQ(config->topk_method, "noaux_tc");
  EXPECT_EQ(config->scoring_func, "sigmoid");
  EXPECT_TRUE(config->norm_topk_prob);
  EXPECT_EQ(config->routed_scaling_factor, 2.5);
  ASSERT_TRUE(config->rope_scaling.has_value());
  EXPECT_EQ(config->rope_scaling->factor, 40.0);
  EXPECT_EQ(config->rope_scaling->original_max_position_embeddings, 256);
  EXPECT_EQ(config->eos_token_ids, std::vector<std::int32_t>{1});
  EXPECT_EQ(config->bos_token_id, 0);
}

}  // namespace
}  // namespace nibble::formats
