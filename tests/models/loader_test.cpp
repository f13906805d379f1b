// Checkpoints that do not fit, or hold what no checkpoint should: refused with the tensor named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "models/registry.h"
#include "tests/models/editable_checkpoint.h"
#include "tests/models/paged_runner.h"

namespace nibble::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

kernels::Device& device() {
  static const std::unique_ptr<kernels::Device> instance =
      kernels::make_device({.num_threads = 2, .isa = "scalar"}).value();
  return *instance;
}

Result<std::unique_ptr<models::Model>> load(const EditableCheckpoint& checkpoint,
                                            const ProgressCallback& progress = {}) {
  return models::load_model({.dir = checkpoint.write()}, device(), progress);
}

template <class Matcher>
void expect_error(const EditableCheckpoint& checkpoint, ErrorCode code, const Matcher& message) {
  const auto model = load(checkpoint);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code, code);
  EXPECT_THAT(model.error().message, message);
}

void put_u16(EditableTensor& tensor, std::size_t index, std::uint16_t bits) {
  std::memcpy(tensor.bytes.data() + 2 * index, &bits, sizeof(bits));
}

void put_f32(EditableTensor& tensor, std::size_t index, float value) {
  std::memcpy(tensor.bytes.data() + 4 * index, &value, sizeof(value));
}

constexpr const char* kOProj = "model.layers.1.self_attn.o_proj.weight";
constexpr std::uint16_t kBf16Nan = 0x7FC0;

TEST(Loader, MissingTensorsAreAllCounted) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.tensors.erase(kOProj);
  checkpoint.tensors.erase("model.norm.weight");
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr("2 tensors are missing"),
                     HasSubstr("\"model.layers.1.self_attn.o_proj.weight\" [128, 128]"),
                     HasSubstr("\"model.norm.weight\" [128]")));
}

TEST(Loader, AtMostADozenAreNamed) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  for (int i = 0; i < 20; ++i) checkpoint.add_f32("stray." + std::to_string(i), {1}, 0.0F);
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr("20 tensors are left over"), HasSubstr("and 8 more")));
}

TEST(Loader, LeftOverTensorIsNamedBesideMissingOnes) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.tensors["model.layers.1.self_attn.out_proj.weight"] = checkpoint.tensor(kOProj);
  checkpoint.tensors.erase(kOProj);
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr("1 tensor is missing"), HasSubstr("1 tensor is left over"),
                     HasSubstr("model.layers.1.self_attn.out_proj.weight")));
}

TEST(Loader, WrongMatrixShape) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.tensor(kOProj).shape = {64, 256};
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr(kOProj), HasSubstr("[64, 256]"), HasSubstr("[128, 128]")));
}

TEST(Loader, WrongVectorShapeAndType) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.add_f32("model.norm.weight", {127}, 1.0F);
  checkpoint.tensor("model.layers.0.input_layernorm.weight").dtype = "I16";
  expect_error(
      checkpoint, ErrorCode::bad_input,
      AllOf(HasSubstr("\"model.norm.weight\": shape [127]; expected [128]"),
            HasSubstr("\"model.layers.0.input_layernorm.weight\": dtype I16; expected F32, BF16 or F16")));
}

TEST(Loader, NanWeightNamesTheElement) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  put_u16(checkpoint.tensor(kOProj), 100 * 128 + 5, kBf16Nan);
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr(kOProj), HasSubstr("row 100"), HasSubstr("column 5"), HasSubstr("nan")));
}

TEST(Loader, InfiniteExpertWeight) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  constexpr std::uint16_t kBf16Inf = 0x7F80;
  put_u16(checkpoint.tensor("model.layers.2.mlp.experts.7.down_proj.weight"), 0, kBf16Inf);
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr("model.layers.2.mlp.experts.7.down_proj.weight"), HasSubstr("inf")));
}

TEST(Loader, NanNormAndBias) {
  EditableCheckpoint norm("v2lite-tiny");
  put_u16(norm.tensor("model.layers.0.input_layernorm.weight"), 3, kBf16Nan);
  expect_error(norm, ErrorCode::bad_input,
               AllOf(HasSubstr("input_layernorm.weight"), HasSubstr("element 3 is nan")));
  EditableCheckpoint bias("v3-tiny-fp8");
  put_f32(bias.tensor("model.layers.1.mlp.gate.e_score_correction_bias"), 1,
          std::numeric_limits<float>::infinity());
  expect_error(bias, ErrorCode::bad_input,
               AllOf(HasSubstr("e_score_correction_bias"), HasSubstr("element 1 is inf")));
}

TEST(Loader, NanFp8CodeAndScale) {
  EditableCheckpoint codes("v3-tiny-fp8");
  // kv_b_proj goes to two packed weights in slices; the element's row is the checkpoint's.
  const std::string kv_b = "model.layers.0.self_attn.kv_b_proj.weight";
  const std::int64_t k = codes.tensor(kv_b).shape[1];
  codes.tensor(kv_b).bytes[static_cast<std::size_t>(200 * k + 9)] = std::byte{0x7F};
  expect_error(codes, ErrorCode::bad_input,
               AllOf(HasSubstr(kv_b), HasSubstr("row 200"), HasSubstr("column 9")));
  EditableCheckpoint scales("v3-tiny-fp8");
  put_f32(scales.tensor(kv_b + "_scale_inv"), 1, std::numeric_limits<float>::quiet_NaN());
  expect_error(scales, ErrorCode::bad_input,
               AllOf(HasSubstr(kv_b), HasSubstr("row 128"), HasSubstr("scale")));
}

TEST(Loader, ExpertsOfALayerShareAFormat) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  const std::string name = "model.layers.1.mlp.experts.2.up_proj.weight";
  EditableTensor& up = checkpoint.tensor(name);
  up.dtype = "BF16";
  up.bytes.assign(up.bytes.size() * 2, std::byte{0});
  checkpoint.tensors.erase(name + "_scale_inv");
  expect_error(checkpoint, ErrorCode::unsupported,
               AllOf(HasSubstr(name), HasSubstr("bf16"),
                     HasSubstr("model.layers.1.mlp.experts.0.up_proj.weight"), HasSubstr("fp8")));
}

// Of experts; those of dense MLPs may differ.
TEST(Loader, GateAndUpShareAFormat) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  const auto make_plain = [&](const std::string& name) {
    EditableTensor& up = checkpoint.tensor(name);
    up.dtype = "BF16";
    up.bytes.assign(up.bytes.size() * 2, std::byte{0});
    checkpoint.tensors.erase(name + "_scale_inv");
  };
  make_plain("model.layers.0.mlp.up_proj.weight");
  EXPECT_TRUE(load(checkpoint).ok());
  const std::string experts = "model.layers.1.mlp.experts.";
  for (std::int64_t e = 0; e < checkpoint.config["n_routed_experts"]; ++e)
    make_plain(experts + std::to_string(e) + ".up_proj.weight");
  expect_error(checkpoint, ErrorCode::unsupported,
               AllOf(HasSubstr(experts + "0.gate_proj.weight"), HasSubstr("fp8"),
                     HasSubstr(experts + "0.up_proj.weight"), HasSubstr("bf16")));
}

TEST(Loader, AttentionMayHaveAnotherFormat) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  EditableTensor& o_proj = checkpoint.tensor(kOProj);
  o_proj.dtype = "BF16";
  o_proj.bytes.assign(o_proj.bytes.size() * 2, std::byte{0});
  checkpoint.tensors.erase(std::string(kOProj) + "_scale_inv");
  const auto model = load(checkpoint);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->info().formats, "bf16 attn, fp8 attn+mlp+experts");
}

TEST(Loader, PredictionLayerAndUnusedScalesAreSkippedWithANote) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  const std::int64_t num_layers = checkpoint.config["num_hidden_layers"];
  const std::string mtp = "model.layers." + std::to_string(num_layers) + ".";
  checkpoint.config["num_nextn_predict_layers"] = 1;
  checkpoint.add_f32(mtp + "eh_proj.weight", {4, 8}, 1.0F);
  checkpoint.add_f32(mtp + "enorm.weight", {4}, 1.0F);
  checkpoint.add_f32("model.layers.0.self_attn.rotary_emb.inv_freq", {8}, 1.0F);
  checkpoint.add_f32("model.layers.0.self_attn.k_proj.k_scale", {}, 1.0F);
  const auto model = load(checkpoint);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_THAT((*model)->info().notes,
              Contains(AllOf(HasSubstr("2 tensors"), HasSubstr("multi-token prediction"))));
  EXPECT_EQ((*model)->info().num_layers, num_layers);
}

// ModelOpt's, compressed-tensors' and TensorRT-LLM's names; with them and without, the model is the same.
TEST(Loader, StaticCacheScalesAreIgnoredWithANote) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  for (const char* name :
       {"k_proj.k_scale", "v_proj.v_scale", "k_scale", "v_scale", "kv_scale", "kv_cache_scaling_factor"}) {
    checkpoint.add_f32(std::string("model.layers.0.self_attn.") + name, {}, 0.5F);
  }
  const auto model = load(checkpoint);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_THAT((*model)->info().notes, Contains(AllOf(HasSubstr("6 tensors"), HasSubstr("static cache scales"),
                                                     HasSubstr("a scale for each token"))));
  checkpoint.add_f32("model.layers.0.self_attn.q_scale", {}, 0.5F);
  expect_error(checkpoint, ErrorCode::bad_input, HasSubstr("q_scale"));
}

TEST(Loader, LayersFarBeyondTheModelAreLeftOver) {
  EditableCheckpoint checkpoint("v3-tiny-fp8");
  checkpoint.add_f32("model.layers.99.eh_proj.weight", {4, 8}, 1.0F);
  expect_error(checkpoint, ErrorCode::bad_input, HasSubstr("model.layers.99.eh_proj.weight"));
}

TEST(Loader, AbsurdLayerCountIsRefusedBeforeAnythingIsBuilt) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.config["num_hidden_layers"] = 1000;
  checkpoint.config["n_routed_experts"] = 60000;
  expect_error(checkpoint, ErrorCode::bad_input,
               AllOf(HasSubstr("num_hidden_layers 1000"), HasSubstr("60000")));
}

TEST(Loader, TiedHeadIsTheEmbedding) {
  EditableCheckpoint tied("v2lite-tiny");
  EditableCheckpoint copied("v2lite-tiny");
  copied.tensor("lm_head.weight") = copied.tensor("model.embed_tokens.weight");
  tied.config["tie_word_embeddings"] = true;
  tied.tensors.erase("lm_head.weight");
  std::vector<std::vector<float>> logits;
  for (const EditableCheckpoint* checkpoint : {&tied, &copied}) {
    const auto model = load(*checkpoint);
    ASSERT_TRUE(model.ok()) << model.error().message;
    PagedRunner runner(**model, device(), {{5, 6, 7, 8}}, {});
    runner.run({{0, 0, 4}});
    logits.push_back(runner.logits(0));
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(Loader, ProgressReachesTheTotalAndCanStopIt) {
  const EditableCheckpoint checkpoint("v3-tiny-nvfp4");
  std::uint64_t last_done = 0;
  std::uint64_t last_total = 1;
  const auto count = [&](std::string_view phase, std::uint64_t done, std::uint64_t total,
                         std::string_view unit) {
    EXPECT_EQ(phase, "load weights");
    EXPECT_EQ(unit, "bytes");
    EXPECT_GE(done, last_done);
    last_done = done;
    last_total = total;
    return true;
  };
  ASSERT_TRUE(load(checkpoint, count).ok());
  EXPECT_EQ(last_done, last_total);
  EXPECT_GT(last_total, 500'000U);

  const auto stopped = load(checkpoint, [](auto&&...) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::interrupted);
}

TEST(Loader, OptionsAreChecked) {
  const EditableCheckpoint checkpoint("v2lite-tiny");
  const auto shortened = models::load_model({.dir = checkpoint.write(), .num_hidden_layers = 1}, device());
  ASSERT_FALSE(shortened.ok());
  EXPECT_EQ(shortened.error().code, ErrorCode::bad_input);
  const auto cache = models::load_model({.dir = checkpoint.write(), .cache_dtype = DType::f16}, device());
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, ErrorCode::unsupported);
}

TEST(Loader, ContextCanBeLimited) {
  const EditableCheckpoint checkpoint("v2lite-tiny");
  const auto model = models::load_model({.dir = checkpoint.write(), .max_model_len = 100}, device());
  ASSERT_TRUE(model.ok());
  EXPECT_EQ((*model)->info().max_position_embeddings, 100);
}

}  // namespace
}  // namespace nibble::testing
