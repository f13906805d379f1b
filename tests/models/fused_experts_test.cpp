// Checkpoints whose experts are stored together: they bind to the same matrices as those that are not, and
// what cannot be cut is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/checkpoint_shape.h"
#include "nibble/quantize.h"
#include "tests/models/decoded_matrix.h"
#include "tests/models/editable_checkpoint.h"
#include "tests/support/compare.h"

namespace nibble::testing {
namespace {

using models::Binding;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kExperts = "model.layers.1.mlp.experts.";

// How one name of each expert becomes one name of all.
struct Fusion {
  const char* suffix;        // ".weight"
  const char* fused_suffix;  // "weight"
};

// [experts, gate rows then up rows ...] of the first layer with experts, the parts removed.
void fuse(EditableCheckpoint& checkpoint, const Fusion& fusion) {
  const std::int64_t experts = checkpoint.config["n_routed_experts"];
  const auto join = [&](const std::string& fused, const std::vector<const char*>& projections) {
    EditableTensor all;
    for (std::int64_t e = 0; e < experts; ++e) {
      std::int64_t rows = 0;
      for (const char* projection : projections) {
        const auto part = checkpoint.tensors.extract(std::string(kExperts) + std::to_string(e) + "." +
                                                     projection + fusion.suffix);
        all.dtype = part.mapped().dtype;
        all.bytes.insert(all.bytes.end(), part.mapped().bytes.begin(), part.mapped().bytes.end());
        all.shape = part.mapped().shape;
        rows += all.shape.empty() ? 1 : all.shape.front();
      }
      if (!all.shape.empty()) {
        all.shape.front() = rows;
      } else if (projections.size() > 1) {
        all.shape = {rows};
      }
    }
    all.shape.insert(all.shape.begin(), experts);
    checkpoint.tensors[kExperts + fused + fusion.fused_suffix] = std::move(all);
  };
  join("w13_", {"gate_proj", "up_proj"});
  join("w2_", {"down_proj"});
}

void expect_same(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto one = models::shape_checkpoint(a, {});
  const auto other = models::shape_checkpoint(b, {});
  ASSERT_TRUE(one.ok()) << one.error().message;
  ASSERT_TRUE(other.ok()) << other.error().message;
  ASSERT_EQ(one->bound.bindings.size(), other->bound.bindings.size());
  for (std::size_t i = 0; i < one->bound.bindings.size(); ++i) {
    const Binding& left = one->bound.bindings[i];
    const Binding& right = other->bound.bindings[i];
    if (!left.spec->is_matrix()) continue;
    EXPECT_EQ(left.matrix.format, right.matrix.format) << left.spec->name;
    EXPECT_TRUE(same_floats(decoded(left.matrix), decoded(right.matrix))) << left.spec->name;
  }
}

struct Case {
  const char* model;
  std::vector<Fusion> fusions;
};

class FusedExperts : public ::testing::TestWithParam<Case> {};

TEST_P(FusedExperts, AreTheSameMatrices) {
  const EditableCheckpoint plain(GetParam().model);
  EditableCheckpoint fused(GetParam().model);
  for (const Fusion& fusion : GetParam().fusions) fuse(fused, fusion);
  const auto fused_dir = fused.write();
  expect_same(plain.write(), fused_dir);
  // And they are written apart, as everybody reads them.
  const TestDirectory out;
  const auto report = quantize_checkpoint(
      {.source = fused_dir, .destination = out.path() / "bf16", .format = "bf16", .num_threads = 2});
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(models::shape_checkpoint(out.path() / "bf16", {}).ok());
}

INSTANTIATE_TEST_SUITE_P(
    All, FusedExperts,
    ::testing::Values(
        Case{"v2lite-tiny", {{".weight", "weight"}}},
        Case{"v3-tiny-nvfp4",
             {{".weight", "weight"},
              {".weight_scale", "weight_scale"},
              {".weight_scale_2", "weight_scale_2"},
              {".input_scale", "input_scale"}}},
        Case{"v3-tiny-ct-mxfp4", {{".weight_packed", "weight_packed"}, {".weight_scale", "weight_scale"}}},
        // As SGLang and Marlin name them.
        Case{"v3-tiny-ct-mxfp4", {{".weight_packed", "weight"}, {".weight_scale", "weight_scale_inv"}}}));

void expect_refused(const EditableCheckpoint& checkpoint, ErrorCode code,
                    const ::testing::Matcher<const std::string&>& message) {
  const auto shape = models::shape_checkpoint(checkpoint.write(), {});
  ASSERT_FALSE(shape.ok());
  EXPECT_EQ(shape.error().code, code) << shape.error().message;
  EXPECT_THAT(shape.error().message, message);
}

TEST(FusedExpertsRefused, MissingScalesListTheNamesTried) {
  EditableCheckpoint checkpoint("v3-tiny-ct-mxfp4");
  fuse(checkpoint, {".weight_packed", "weight"});
  fuse(checkpoint, {".weight_scale", "weight_scale"});
  checkpoint.tensors.erase(std::string(kExperts) + "w13_weight_scale");
  expect_refused(checkpoint, ErrorCode::bad_input,
                 AllOf(HasSubstr("experts.w13_weight_scale\""), HasSubstr("experts.w13_weight_scale_inv\""),
                       HasSubstr("experts.0.gate_proj.weight")));
}

TEST(FusedExpertsRefused, WrongShapes) {
  EditableCheckpoint fewer("v2lite-tiny");
  fuse(fewer, {".weight", "weight"});
  fewer.config["n_routed_experts"] = 4;
  expect_refused(fewer, ErrorCode::bad_input, AllOf(HasSubstr("w13_weight"), HasSubstr("4 experts")));
  EditableCheckpoint odd("v2lite-tiny");
  fuse(odd, {".weight", "weight"});
  EditableTensor& w13 = odd.tensor(std::string(kExperts) + "w13_weight");
  w13.shape = {w13.shape[0], w13.shape[1] + 1, w13.shape[2]};
  w13.bytes.resize(static_cast<std::size_t>(w13.shape[0] * w13.shape[1] * w13.shape[2]) * 2);
  expect_refused(odd, ErrorCode::bad_input, AllOf(HasSubstr("w13_weight"), HasSubstr("even")));
}

// One part in another format: half of the projections, or both spellings at once.
TEST(FusedExpertsRefused, MixedFormats) {
  EditableCheckpoint twice("v2lite-tiny");
  const EditableTensor one = twice.tensor(std::string(kExperts) + "3.down_proj.weight");
  fuse(twice, {".weight", "weight"});
  twice.tensors[std::string(kExperts) + "3.down_proj.weight"] = one;
  expect_refused(twice, ErrorCode::bad_input, AllOf(HasSubstr("3.down_proj"), HasSubstr("w2_weight")));
  EditableCheckpoint beside("v3-tiny-ct-mxfp4");
  fuse(beside, {".weight_packed", "weight"});
  fuse(beside, {".weight_scale", "weight_scale"});
  EditableTensor plain;
  plain.dtype = "BF16";
  const auto& packed = beside.tensor(std::string(kExperts) + "w2_weight");
  plain.shape = {packed.shape[0], packed.shape[1], packed.shape[2] * 2};
  plain.bytes.resize(packed.bytes.size() * 4);
  beside.tensors[std::string(kExperts) + "w2_weight_packed"] = plain;
  const auto shape = models::shape_checkpoint(beside.write(), {});
  ASSERT_FALSE(shape.ok());
  EXPECT_THAT(shape.error().message, HasSubstr("w2_weight_packed"));
}

TEST(FusedExpertsRefused, WhatCannotBeCut) {
  EditableCheckpoint checkpoint("v2lite-tiny");
  checkpoint.add_f32(std::string(kExperts) + "w13_qweight", {8, 4, 4}, 1.0F);
  expect_refused(checkpoint, ErrorCode::unsupported,
                 AllOf(HasSubstr("w13_qweight"), HasSubstr("weight_scale")));
}

}  // namespace
}  // namespace nibble::testing
