// What the writer of quantization_config says, the parser understands.
#include "formats/quantization_config_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "formats/hf_config.h"
#include "formats/mapped_file.h"
#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

using quant::WeightFormat;
using ::testing::Contains;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr std::array kQuantized = {WeightFormat::fp8, WeightFormat::mxfp4, WeightFormat::nvfp4,
                                   WeightFormat::int8, WeightFormat::int4};

QuantMethod method_of(WeightFormat format) {
  return format == WeightFormat::fp8     ? QuantMethod::fp8
         : format == WeightFormat::nvfp4 ? QuantMethod::modelopt
                                         : QuantMethod::compressed_tensors;
}

HfConfig parsed(const std::string& text) {
  auto config = parse_hf_config(text, "config.json");
  EXPECT_TRUE(config.ok()) << config.error().message;
  return config.ok() ? std::move(config).value() : HfConfig{};
}

TEST(QuantizationConfigWriter, EveryFormatIsUnderstood) {
  for (const WeightFormat format : kQuantized) {
    const QuantizationClaim claim{method_of(format), {{format, {"Linear"}}}, {"lm_head"}};
    const auto text = replace_quantization_config(small_config(), "config.json", claim);
    ASSERT_TRUE(text.ok()) << text.error().message;
    const QuantizationConfig config = parsed(*text).quantization;
    EXPECT_THAT(config.formats, Contains(format)) << quant::format_name(format);
    EXPECT_THAT(config.ignore, Contains("lm_head")) << quant::format_name(format);
  }
}

// One claim for every pair of formats.
TEST(QuantizationConfigWriter, MixedPrecision) {
  for (const WeightFormat a : kQuantized) {
    for (const WeightFormat b : kQuantized) {
      if (a == b) continue;
      const QuantizationClaim claim{
          QuantMethod::compressed_tensors, {{a, {"re:.*attn.*"}}, {b, {"Linear"}}}, {}};
      const auto text = replace_quantization_config(small_config(), "config.json", claim);
      ASSERT_TRUE(text.ok());
      const QuantizationConfig config = parsed(*text).quantization;
      EXPECT_THAT(config.formats, Contains(a));
      EXPECT_THAT(config.formats, Contains(b));
    }
  }
}

TEST(QuantizationConfigWriter, GroupsOfAMixtureAreCheckedByTheirOwnFormat) {
  const QuantizationClaim claim{QuantMethod::compressed_tensors,
                                {{WeightFormat::mxfp4, {"re:.*attn.*"}}, {WeightFormat::fp8, {"Linear"}}},
                                {}};
  Json config = Json::parse(replace_quantization_config(small_config(), "config.json", claim).value());
  config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = 64;
  const auto result = parse_hf_config(config.dump(), "config.json");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::unsupported);
  EXPECT_THAT(result.error().message, HasSubstr("4 bits in groups of 64"));
}

TEST(QuantizationConfigWriter, TheRestOfTheConfigStays) {
  const std::string source = small_config(R"(,"rope_theta": 10000.5, "odd": [1e-6, null, "é"])");
  const QuantizationClaim fp8{QuantMethod::fp8, {{WeightFormat::fp8, {"Linear"}}}, {}};
  const std::string with = replace_quantization_config(source, "config.json", fp8).value();
  Json expected = Json::parse(source);
  EXPECT_NE(Json::parse(with), expected);
  // And without a claim, an old one goes.
  EXPECT_EQ(Json::parse(replace_quantization_config(with, "config.json", {}).value()), expected);
}

TEST(QuantizationConfigWriter, Gptq) {
  QuantizationClaim claim{
      QuantMethod::gptq, {{WeightFormat::int8, {"Linear"}}}, {"lm_head", "re:.*mlp\\.gate$"}};
  claim.gptq = {.bits = 8, .group_size = 64, .zero_points = true, .act_order = true};
  const auto text = replace_quantization_config(small_config(), "config.json", claim);
  ASSERT_TRUE(text.ok()) << text.error().message;
  const QuantizationConfig config = parsed(*text).quantization;
  ASSERT_EQ(config.integers.size(), 1U);
  EXPECT_EQ(config.integers.front().bits, 8);
  EXPECT_EQ(config.integers.front().group_size, 64);
  EXPECT_FALSE(config.integers.front().symmetric);
  EXPECT_TRUE(config.integers.front().act_order);
  EXPECT_EQ(config.layout, quant::MatrixLayout::gptq);
  const Json json = Json::parse(*text)["quantization_config"]["dynamic"];
  EXPECT_TRUE(json.contains("-:lm_head$")) << json;
  EXPECT_TRUE(json.contains("-:.*mlp\\.gate$")) << json;
}

TEST(QuantizationConfigWriter, ModelOptsSideFile) {
  const TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write(
      "hf_quant_config.json",
      hf_quant_config_text({QuantMethod::modelopt, {{WeightFormat::nvfp4, {"Linear"}}}, {"*.mlp.gate"}}));
  const auto config = load_hf_config(dir.path() / "config.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_THAT(config->quantization.formats, Contains(WeightFormat::nvfp4));
  EXPECT_THAT(config->quantization.ignore, Contains("*.mlp.gate"));
}

TEST(QuantizationConfigWriter, NoObject) {
  const auto result = replace_quantization_config("[]", "here/config.json", {});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::bad_input);
  EXPECT_THAT(result.error().message, HasSubstr("here/config.json"));
}

}  // namespace
}  // namespace nibble::formats
