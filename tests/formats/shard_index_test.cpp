#include "formats/shard_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble::formats {
namespace {

using ::testing::ElementsAre;

ShardIndex parse_ok(std::string_view json) {
  auto index = parse_shard_index(json, "index");
  EXPECT_TRUE(index.ok()) << index.error().message;
  return index.ok() ? std::move(index).value() : ShardIndex{};
}

TEST(ShardIndex, ListsShardsOnceAndFindsTensors) {
  const ShardIndex index = parse_ok(
      R"({"metadata": {"total_size": 12}, "weight_map": {"c": "2.safetensors", "a": "1.safetensors", "b": "2.safetensors"}})");
  EXPECT_THAT(index.shards, ElementsAre("1.safetensors", "2.safetensors"));
  EXPECT_EQ(index.shard_of("a"), 0U);
  EXPECT_EQ(index.shard_of("b"), 1U);
  EXPECT_EQ(index.shard_of("c"), 1U);
  EXPECT_EQ(index.shard_of("d"), std::nullopt);
  EXPECT_EQ(index.total_size, 12U);
}

TEST(ShardIndex, TotalSizeIsInformative) {
  for (const char* json : {R"({"weight_map": {"a": "1.safetensors"}})",
                           R"({"metadata": {}, "weight_map": {"a": "1.safetensors"}})",
                           R"({"metadata": null, "weight_map": {"a": "1.safetensors"}})",
                           R"({"metadata": {"total_size": 1.5e9}, "weight_map": {"a": "1.safetensors"}})"}) {
    EXPECT_EQ(parse_ok(json).total_size, std::nullopt) << json;
  }
}

TEST(ShardIndex, OtherFieldsAreIgnored) {
  EXPECT_EQ(parse_ok(R"({"version": [1, {"x": null}], "weight_map": {"a": "1.safetensors"}})").shards.size(),
            1U);
}

TEST(ShardIndex, DotsInsideANameAreFine) {
  EXPECT_EQ(parse_ok(R"({"weight_map": {"a": "model.v1.2-00001.safetensors"}})").shards[0],
            "model.v1.2-00001.safetensors");
}

}  // namespace
}  // namespace nibble::formats
