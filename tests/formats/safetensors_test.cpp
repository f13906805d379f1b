// Headers that must be accepted, and limits at their edge. Refusals are covered by the malformed files.
#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SafetensorsLayout parse_ok(std::string_view header, std::size_t data_bytes) {
  auto layout = parse_safetensors(container(header, data_bytes), "f");
  EXPECT_TRUE(layout.ok()) << layout.error().message;
  return layout.ok() ? std::move(layout).value() : SafetensorsLayout{};
}

std::string parse_error(std::string_view header, std::size_t data_bytes) {
  const auto layout = parse_safetensors(container(header, data_bytes), "f");
  EXPECT_FALSE(layout.ok());
  return layout.ok() ? "" : layout.error().message;
}

TEST(Safetensors, SmallestFile) {
  const SafetensorsLayout layout = parse_ok("{}", 0);
  EXPECT_EQ(layout.data_begin, 10U);
  EXPECT_TRUE(layout.tensors.empty());
}

TEST(Safetensors, WhitespaceAroundTheHeader) { parse_ok(" \n\t{ }\r\n  ", 0); }

TEST(Safetensors, TensorsComeInTheOrderOfTheirBytes) {
  const SafetensorsLayout layout = parse_ok(
      R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},"a":{"shape":[],"data_offsets":[0,4],"dtype":"F32"}})",
      6);
  ASSERT_EQ(layout.tensors.size(), 2U);
  EXPECT_EQ(layout.tensors[0].name, "a");
  EXPECT_EQ(layout.tensors[0].dtype, DType::f32);
  EXPECT_TRUE(layout.tensors[0].shape.empty());
  EXPECT_EQ(layout.tensors[1].name, "b");
  EXPECT_EQ(layout.tensors[1].begin, 4U);
  EXPECT_EQ(layout.tensors[1].end, 6U);
}

TEST(Safetensors, EmptyTensorsMayLieBetweenOthers) {
  const SafetensorsLayout layout = parse_ok(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"z":{"dtype":"F32","shape":[0,7],"data_offsets":[2,2]},
          "b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
      3);
  ASSERT_EQ(layout.tensors.size(), 3U);
  EXPECT_EQ(layout.tensors[1].name, "z");
  EXPECT_THAT(layout.tensors[1].shape, ElementsAre(0, 7));
}

TEST(Safetensors, UnalignedDataIsLegal) {
  parse_ok(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})",
      9);
}

TEST(Safetensors, NamesAreUnescaped) {
  const SafetensorsLayout layout =
      parse_ok(R"({"\u006dodel.\u00e9\ud83d\ude00\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  ASSERT_EQ(layout.tensors.size(), 1U);
  EXPECT_EQ(layout.tensors[0].name, "model.\xC3\xA9\xF0\x9F\x98\x80\n");
}

TEST(Safetensors, MetadataIsStrings) {
  EXPECT_TRUE(parse_ok(R"({"__metadata__":{"format":"pt","x":""}})", 0).tensors.empty());
}

TEST(Safetensors, EveryDtypeHasItsWidth) {
  for (const auto& [name, bytes] : {std::pair{"BOOL", 8}, {"F4", 4},          {"F6_E2M3", 6},
                                    {"F6_E3M2", 6},       {"U8", 8},          {"I8", 8},
                                    {"F8_E5M2", 8},       {"F8_E4M3", 8},     {"F8_E8M0", 8},
                                    {"F8_E4M3FNUZ", 8},   {"F8_E5M2FNUZ", 8}, {"I16", 16},
                                    {"U16", 16},          {"F16", 16},        {"BF16", 16},
                                    {"I32", 32},          {"U32", 32},        {"F32", 32},
                                    {"C64", 64},          {"F64", 64},        {"I64", 64},
                                    {"U64", 64}}) {
    SCOPED_TRACE(name);
    const std::size_t size = static_cast<std::size_t>(bytes);  // 8 elements
    parse_ok(fmt::format(R"({{"a":{{"dtype":"{}","shape":[8],"data_offsets":[0,{}]}}}})", name, size), size);
  }
}

TEST(Safetensors, RankEightIsTheLimit) {
  parse_ok(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2);
  EXPECT_THAT(parse_error(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2),
              HasSubstr("more than 8 dimensions"));
}

TEST(Safetensors, LargeIntegersAreExact) {
  // 2^53 + 1 is not a double: rounding would make the sizes agree.
  EXPECT_THAT(
      parse_error(R"({"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,9007199254740992]}})",
                  0),
      HasSubstr("9007199254740993"));
}

TEST(Safetensors, CutShortNamesBothByteCounts) {
  const std::string message = parse_error(R"({"a":{"dtype":"U8","shape":[100],"data_offsets":[0,100]}})", 40);
  EXPECT_THAT(message, HasSubstr("105 bytes; the header describes 165"));
  EXPECT_THAT(message, HasSubstr("by 60 bytes"));
}

TEST(Safetensors, MessagesAreFitForATerminal) {
  const std::string message =
      parse_error("{\"\\u001b[31m" + std::string(5000, 'x') + "\":{\"dtype\":\"U8\",\"shape\":[1]}}", 0);
  EXPECT_LT(message.size(), 400U);
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
}

TEST(Safetensors, ManyTensors) {
  std::string header = "{";
  for (int i = 0; i < 100'000; ++i) {
    header += fmt::format("{}\"layer.{}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
                          i == 0 ? "" : ",", i, i, i + 1);
  }
  EXPECT_EQ(parse_ok(header + "}", 100'000).tensors.size(), 100'000U);
}

}  // namespace
}  // namespace nibble::formats
