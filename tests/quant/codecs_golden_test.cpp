// Every code decoded and every golden input encoded, bit by bit (codecs.safetensors).
#include <gtest/gtest.h>

#include <functional>

#include "quant/e2m1.h"
#include "quant/e8m0.h"
#include "quant/float16.h"
#include "quant/float8.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::SafetensorsReader;

const SafetensorsReader& golden() {
  static const SafetensorsReader reader(::nibble::testing::test_data("golden") / "codecs.safetensors");
  return reader;
}

void expect_decodes(const std::string& name, const std::function<float(std::uint8_t)>& decode) {
  const std::vector<float> expected = golden().at("decode." + name).values<float>();
  std::vector<float> actual;
  for (std::size_t code = 0; code < expected.size(); ++code)
    actual.push_back(decode(static_cast<std::uint8_t>(code)));
  EXPECT_TRUE(::nibble::testing::same_floats(actual, expected)) << name;
}

TEST(CodecsGolden, DecodeE2m1) {
  expect_decodes("e2m1", [](std::uint8_t code) { return kE2m1Values[code]; });
}
TEST(CodecsGolden, DecodeE4m3) { expect_decodes("e4m3fn", e4m3_to_float); }
TEST(CodecsGolden, DecodeE5m2) { expect_decodes("e5m2", e5m2_to_float); }
TEST(CodecsGolden, DecodeE8m0) { expect_decodes("e8m0", e8m0_to_float); }

// Codes must be equal, except that any NaN equals any NaN (judged by decoding).
template <class Code>
void expect_encodes(const std::string& name, const std::function<Code(float)>& encode,
                    const std::function<bool(Code)>& code_is_nan) {
  const std::vector<float> inputs = golden().at("encode.x").values<float>();
  const std::vector<Code> expected = golden().at("encode." + name).values<Code>();
  ASSERT_EQ(inputs.size(), expected.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Code actual = encode(inputs[i]);
    const bool same = actual == expected[i] || (code_is_nan(actual) && code_is_nan(expected[i]));
    ASSERT_TRUE(same) << name << " of " << inputs[i] << " (input " << i << "): " << static_cast<int>(actual)
                      << ", expected " << static_cast<int>(expected[i]);
  }
}

bool e4m3_is_nan(std::uint8_t code) { return (code & 0x7FU) == 0x7FU; }
bool e5m2_is_nan(std::uint8_t code) { return (code & 0x7FU) > 0x7CU; }
bool never_nan(std::uint8_t) { return false; }

TEST(CodecsGolden, EncodeBf16) {
  expect_encodes<std::uint16_t>("bf16", float_to_bf16,
                                [](std::uint16_t code) { return (code & 0x7FFFU) > 0x7F80U; });
}
TEST(CodecsGolden, EncodeF16) {
  expect_encodes<std::uint16_t>("f16", float_to_f16,
                                [](std::uint16_t code) { return (code & 0x7FFFU) > 0x7C00U; });
}
TEST(CodecsGolden, EncodeE4m3) {
  expect_encodes<std::uint8_t>("e4m3fn", float_to_e4m3, e4m3_is_nan);
  expect_encodes<std::uint8_t>("e4m3fn_sat", float_to_e4m3_saturated, e4m3_is_nan);
}
TEST(CodecsGolden, EncodeE5m2) {
  expect_encodes<std::uint8_t>("e5m2", float_to_e5m2, e5m2_is_nan);
  expect_encodes<std::uint8_t>("e5m2_sat", float_to_e5m2_saturated, e5m2_is_nan);
}
TEST(CodecsGolden, EncodeE2m1) {
  expect_encodes<std::uint8_t>("e2m1_sat", float_to_e2m1_saturated, never_nan);
}

TEST(CodecsGolden, EncodeE8m0Ceil) {
  const std::vector<float> inputs = golden().at("encode.x").values<float>();
  const std::vector<std::uint8_t> expected = golden().at("encode.e8m0_ceil").values<std::uint8_t>();
  const std::vector<std::uint8_t> valid = golden().at("encode.e8m0_valid").values<std::uint8_t>();
  int num_checked = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (valid[i] == 0) continue;
    ASSERT_EQ(float_to_e8m0_ceil(inputs[i]), expected[i]) << "input " << i << ": " << inputs[i];
    ++num_checked;
  }
  EXPECT_GT(num_checked, 1000);
}

// Decoding and encoding again gives the code back, for every code that is a number.
TEST(CodecsGolden, RoundTripsOfAllSixteenBitCodes) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto code = static_cast<std::uint16_t>(bits);
    if ((code & 0x7FFFU) <= 0x7C00U) {
      ASSERT_EQ(float_to_f16(f16_to_float(code)), code);
    }
    if ((code & 0x7FFFU) <= 0x7F80U) {
      ASSERT_EQ(float_to_bf16(bf16_to_float(code)), code);
    }
  }
  EXPECT_TRUE(std::isnan(f16_to_float(0x7C01)));
  EXPECT_TRUE(std::isnan(f16_to_float(0xFE00)));
  EXPECT_EQ(f16_to_float(0x3C00), 1.0F);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24F);
  EXPECT_EQ(f16_to_float(0x7BFF), 65504.0F);
}

}  // namespace
}  // namespace nibble::quant
