// Names and layouts of every format find_matrix knows, beyond those of the golden models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "formats/checkpoint.h"
#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

using quant::WeightFormat;
using ::testing::HasSubstr;

constexpr const char* kFp8 =
    R"(,"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"})";
constexpr const char* kMxfp4 = R"(,"quantization_config": {"quant_method": "mxfp4"})";
constexpr const char* kModelopt =
    R"(,"quantization_config": {"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"})";

Checkpoint open_with(const TestDirectory& dir, const char* quantization,
                     const std::vector<TestTensor>& tensors) {
  dir.write("config.json", small_config(quantization));
  dir.write_tensors("model.safetensors", tensors);
  auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  if (!checkpoint.ok()) throw std::runtime_error("cannot go on");
  return std::move(checkpoint).value();
}

MatrixSource find_ok(const Checkpoint& checkpoint, std::int64_t n, std::int64_t k) {
  auto source = find_matrix(checkpoint, "m", n, k);
  EXPECT_TRUE(source.ok()) << source.error().message;
  return source.ok() ? std::move(source).value() : MatrixSource{};
}

Error find_error(const Checkpoint& checkpoint, std::int64_t n, std::int64_t k) {
  const auto source = find_matrix(checkpoint, "m", n, k);
  EXPECT_FALSE(source.ok());
  return source.ok() ? Error{} : source.error();
}

TEST(FindMatrix, PlainFormats) {
  TestDirectory dir;
  for (const auto& [dtype, width, format] : {std::tuple{"F32", 4, WeightFormat::f32},
                                             {"F16", 2, WeightFormat::f16},
                                             {"BF16", 2, WeightFormat::bf16}}) {
    const Checkpoint c = open_with(dir, "", {{"m.weight", dtype, {2, 3}, std::string(6 * width, '\0')}});
    const MatrixSource source = find_ok(c, 2, 3);
    EXPECT_EQ(source.matrix.format, format);
    EXPECT_EQ(source.matrix.codes, c.find("m.weight")->data.data());
    EXPECT_EQ(source.tensors.size(), 1U);
  }
}

// The scale may be F32, BF16 or E8M0 and be called weight_scale_inv or scale.
TEST(FindMatrix, Fp8ScalesOfEveryKind) {
  TestDirectory dir;
  for (const char* name : {"m.weight_scale_inv", "m.scale"}) {
    for (const auto& [dtype, width, type] :
         {std::tuple{"F32", 4, DType::f32}, {"BF16", 2, DType::bf16}, {"F8_E8M0", 1, DType::f8_e8m0}}) {
      const Checkpoint c = open_with(dir, kFp8,
                                     {{"m.weight", "F8_E4M3", {129, 2}, std::string(258, '\0')},
                                      {name, dtype, {2, 1}, std::string(2 * width, '\1')}});
      const MatrixSource source = find_ok(c, 129, 2);
      EXPECT_EQ(source.matrix.format, WeightFormat::fp8);
      EXPECT_EQ(source.matrix.scale_dtype, type);
      EXPECT_EQ(source.matrix.scales, c.find(name)->data.data());
    }
  }
}

TEST(FindMatrix, MissingScaleListsTheNamesTried) {
  TestDirectory dir;
  const Checkpoint c = open_with(dir, kFp8, {{"m.weight", "F8_E4M3", {2, 2}, "1234"}});
  const Error error = find_error(c, 2, 2);
  EXPECT_EQ(error.code, ErrorCode::bad_input);
  EXPECT_THAT(error.message, HasSubstr("\"m.weight_scale_inv\" or \"m.scale\""));
}

TEST(FindMatrix, Mxfp4InTheSpellingOfV4) {
  TestDirectory dir;
  for (const char* claim : {kFp8, kMxfp4}) {
    const Checkpoint c = open_with(dir, claim,
                                   {{"m.weight", "I8", {2, 32}, std::string(64, '\0')},
                                    {"m.scale", "F8_E8M0", {2, 2}, std::string(4, '\x7F')}});
    const MatrixSource source = find_ok(c, 2, 64);
    EXPECT_EQ(source.matrix.format, WeightFormat::mxfp4);
    EXPECT_EQ(source.matrix.scale_dtype, DType::f8_e8m0);
    EXPECT_EQ(source.tensors.size(), 2U);
  }
}

TEST(FindMatrix, Nvfp4GlobalScaleAndIgnoredInputScale) {
  TestDirectory dir;
  const Checkpoint c = open_with(dir, kModelopt,
                                 {{"m.weight", "U8", {1, 8}, std::string(8, '\x21')},
                                  {"m.weight_scale", "F8_E4M3", {1, 1}, "\x38"},
                                  {"m.weight_scale_2", "F32", {1}, float_bytes({0.125F})},
                                  {"m.input_scale", "F32", {}, float_bytes({3.0F})}});
  const MatrixSource source = find_ok(c, 1, 16);
  EXPECT_EQ(source.matrix.format, WeightFormat::nvfp4);
  EXPECT_EQ(source.matrix.global_scale, 0.125F);
  EXPECT_EQ(source.tensors.size(), 4U) << "input_scale counts as consumed";
}

TEST(FindMatrix, PlainTensorsAreAllowedUnderEveryClaim) {
  TestDirectory dir;
  for (const char* claim : {"", kFp8, kMxfp4, kModelopt}) {
    find_ok(open_with(dir, claim, {{"m.weight", "BF16", {1, 2}, "1234"}}), 1, 2);
  }
}

TEST(FindMatrix, ClaimAndTensorsMustAgree) {
  TestDirectory dir;
  const Checkpoint c = open_with(
      dir, kModelopt,
      {{"m.weight", "F8_E4M3", {1, 2}, "12"}, {"m.weight_scale_inv", "F32", {1, 1}, float_bytes({1.0F})}});
  const Error error = find_error(c, 1, 2);
  EXPECT_EQ(error.code, ErrorCode::bad_input);
  EXPECT_THAT(error.message, HasSubstr("fp8"));
  EXPECT_THAT(error.message, HasSubstr("NVFP4 (ModelOpt)"));
}

constexpr const char* kInt8 = R"(, "quantization_config": {"quant_method": "w8a8_int8"})";
constexpr const char* kGptq =
    R"(, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false})";

TEST(FindMatrix, Int8IsNotMistakenForMxfp4) {
  TestDirectory dir;
  const Checkpoint c = open_with(dir, kInt8,
                                 {{"m.weight", "I8", {1, 64}, std::string(64, '\0')},
                                  {"m.weight_scale", "F32", {1, 1}, float_bytes({1.0F})}});
  EXPECT_EQ(find_ok(c, 1, 64).matrix.format, WeightFormat::int8);
}

TEST(FindMatrix, EightBitScalesPerTensorRowAndBlock) {
  struct Case {
    std::vector<std::int64_t> shape;
    std::int64_t group_n;
    std::int64_t group_k;
  };
  for (const Case& c : {Case{{}, 130, 200}, Case{{1}, 130, 200}, Case{{130, 1}, 1, 200}, Case{{130}, 1, 200},
                        Case{{2, 2}, 128, 128}, Case{{130, 2}, 1, 128}}) {
    TestDirectory dir;
    std::size_t count = 1;
    for (const std::int64_t d : c.shape) count *= static_cast<std::size_t>(d);
    const Checkpoint checkpoint =
        open_with(dir, kFp8,
                  {{"m.weight", "F8_E4M3", {130, 200}, std::string(26000, '\x38')},
                   {"m.weight_scale", "F32", c.shape, float_bytes(std::vector<float>(count, 0.5F))}});
    const quant::MatrixView m = find_ok(checkpoint, 130, 200).matrix;
    EXPECT_EQ(m.rows_per_scale(), c.group_n);
    EXPECT_EQ(m.group_k(), c.group_k);
  }
}

TEST(FindMatrix, GptqMustAgreeWithItsConfiguration) {
  TestDirectory dir;
  const std::string words(static_cast<std::size_t>(64 / 8 * 8 * 4), '\x77');
  const Checkpoint c = open_with(dir, kGptq,
                                 {{"m.qweight", "I32", {8, 8}, words},
                                  {"m.qzeros", "I32", {2, 1}, std::string(8, '\x77')},
                                  {"m.scales", "F32", {2, 8}, float_bytes(std::vector<float>(16, 1.0F))}});
  const MatrixSource source = find_ok(c, 8, 64);
  EXPECT_EQ(source.matrix.format, WeightFormat::int4);
  EXPECT_EQ(source.matrix.layout, quant::MatrixLayout::gptq);
  EXPECT_TRUE(source.matrix.grouping.zero_points);
  EXPECT_EQ(source.matrix.num_groups(), 2);
  EXPECT_THAT(find_error(c, 8, 96).message, HasSubstr("expected [12, 8]"));
  EXPECT_THAT(find_error(c, 12, 64).message, HasSubstr("12 outputs do not fill words of 8"));
}

// Two codes to a byte, eight to a word, groups of 16 and 32: inputs that do not fill them are told.
TEST(FindMatrix, OddInputs) {
  TestDirectory dir;
  struct Case {
    const char* claim;
    std::vector<TestTensor> tensors;
    std::int64_t k;
    const char* text;
  };
  constexpr const char* kPacked =
      R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
          "strategy": "group", "group_size": 32, "symmetric": true}}}})";
  const Case cases[] = {
      {kPacked,
       {{"m.weight_packed", "I32", {1, 5}, std::string(20, '\0')},
        {"m.weight_scale", "F16", {1, 2}, std::string(4, '\1')}},
       33,
       "33 inputs; expected an even number"},
      {kGptq,
       {{"m.qweight", "I32", {4, 8}, std::string(128, '\0')},
        {"m.scales", "F16", {2, 8}, std::string(32, '\1')},
        {"m.qzeros", "I32", {2, 1}, std::string(8, '\0')}},
       33,
       "33 inputs do not fill words of 8"},
      {kMxfp4,
       {{"m.weight", "I8", {1, 16}, std::string(16, '\0')}, {"m.scale", "F8_E8M0", {1, 1}, "\x7F"}},
       33,
       "33 inputs are not a multiple of the 32"},
      {kModelopt,
       {{"m.weight", "U8", {1, 8}, std::string(8, '\0')},
        {"m.weight_scale", "F8_E4M3", {1, 1}, "\x38"},
        {"m.weight_scale_2", "F32", {}, float_bytes({1.0F})}},
       17,
       "17 inputs are not a multiple of the 16"},
  };
  for (const Case& c : cases) {
    const Error error =
        find_error(open_with(dir, c.claim, c.tensors), c.tensors.front().name == "m.qweight" ? 8 : 1, c.k);
    EXPECT_EQ(error.code, ErrorCode::bad_input);
    EXPECT_THAT(error.message, HasSubstr(c.text));
    EXPECT_THAT(error.message, HasSubstr(c.tensors.front().name));
  }
}

TEST(FindMatrix, CompressedTensorsNvfp4GlobalScaleDivides) {
  TestDirectory dir;
  const Checkpoint c = open_with(
      dir,
      R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})",
      {{"m.weight_packed", "U8", {1, 8}, std::string(8, '\x21')},
       {"m.weight_scale", "F8_E4M3", {1, 1}, "\x38"},
       {"m.weight_global_scale", "F32", {1}, float_bytes({8.0F})}});
  const MatrixSource source = find_ok(c, 1, 16);
  EXPECT_EQ(source.matrix.format, WeightFormat::nvfp4);
  EXPECT_EQ(source.matrix.global_scale, 0.125F);
}

TEST(ReadVector, ConvertsExactly) {
  TestDirectory dir;
  const Checkpoint c = open_with(dir, "",
                                 {{"f32", "F32", {2}, float_bytes({1.5F, -0.1F})},
                                  {"bf16", "BF16", {2}, std::string("\xC0\x3F\x00\x80", 4)},
                                  {"f16", "F16", {2}, std::string("\x00\x3E\x01\x00", 4)}});
  const std::array<std::int64_t, 1> shape = {2};
  EXPECT_EQ(read_vector(c, "f32", shape).value(), (std::vector<float>{1.5F, -0.1F}));
  EXPECT_EQ(read_vector(c, "bf16", shape).value(), (std::vector<float>{1.5F, -0.0F}));
  EXPECT_EQ(read_vector(c, "f16", shape).value(), (std::vector<float>{1.5F, 0x1p-24F}));
}

}  // namespace
}  // namespace nibble::formats
