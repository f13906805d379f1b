// Directories: which files count, what the index decides, what is noted.
#include "formats/checkpoint.h"
#include "formats/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <utility>

#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kIndex = "model.safetensors.index.json";

TestTensor bytes(const std::string& name, const std::string& content) {
  return {name, "U8", {static_cast<std::int64_t>(content.size())}, content};
}

std::string text(const TensorInfo* tensor) {
  return tensor == nullptr
             ? ""
             : std::string(reinterpret_cast<const char*>(tensor->data.data()), tensor->data.size());
}

Checkpoint open_ok(const TestDirectory& dir) {
  auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  if (!checkpoint.ok()) throw std::runtime_error("cannot go on");
  return std::move(checkpoint).value();
}

std::string open_error(const TestDirectory& dir) {
  const auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_FALSE(checkpoint.ok());
  return checkpoint.ok() ? "" : checkpoint.error().message;
}

TEST(Checkpoint, SingleFile) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write_tensors("model.safetensors", {bytes("b", "xyz"), bytes("a", "12")});
  dir.write_tensors("golden.safetensors", {bytes("other", "1")});
  const Checkpoint checkpoint = open_ok(dir);
  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");
  EXPECT_EQ(text(checkpoint.find("b")), "xyz");
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_EQ(checkpoint.find("other"), nullptr);
  EXPECT_THAT(checkpoint.notes(), IsEmpty());
  EXPECT_EQ(checkpoint.config().hidden_size, 64);
}

TEST(Checkpoint, SpansOutliveMovesAndRelease) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write_tensors("model.safetensors", {bytes("a", std::string(100'000, 'a')), bytes("b", "end")});
  Checkpoint first = open_ok(dir);
  const TensorInfo* a = first.find("a");
  const Checkpoint second = std::move(first);
  advise_will_need(a->data);
  advise_done(a->data);
  EXPECT_EQ(text(a), std::string(100'000, 'a'));
  EXPECT_EQ(text(second.find("b")), "end");
}

TEST(Checkpoint, ShardsWithoutIndex) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write_tensors("model-00001-of-00002.safetensors", {bytes("a", "1")});
  dir.write_tensors("model-00002-of-00002.safetensors", {bytes("b", "22")});
  const Checkpoint checkpoint = open_ok(dir);
  EXPECT_EQ(checkpoint.files().size(), 2U);
  EXPECT_EQ(text(checkpoint.find("b")), "22");
  EXPECT_EQ(checkpoint.files()[checkpoint.find("b")->file_idx].filename(),
            "model-00002-of-00002.safetensors");
}

TEST(Checkpoint, StaleIndexIsNoted) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write(kIndex, R"({"metadata": {}, "weight_map": {"a": "model-1.safetensors"}})");
  dir.write_tensors("model-1.safetensors", {bytes("a", "1"), bytes("a_scale", "2")});
  dir.write_tensors("model-old.safetensors", {bytes("a", "9")});
  const Checkpoint checkpoint = open_ok(dir);
  EXPECT_EQ(text(checkpoint.find("a")), "1");
  EXPECT_EQ(text(checkpoint.find("a_scale")), "2");
  EXPECT_THAT(checkpoint.notes(), ElementsAre(HasSubstr("stale"), HasSubstr("model-old.safetensors")));
}

TEST(Checkpoint, TheIndexNamesTheShards) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write(kIndex, R"({"weight_map": {"a": "part.safetensors"}})");
  dir.write_tensors("part.safetensors", {bytes("a", "1")});
  EXPECT_EQ(text(open_ok(dir).find("a")), "1");
}

TEST(Checkpoint, TheIndexDecidesBetweenDuplicates) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  dir.write(kIndex, R"({"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}})");
  dir.write_tensors("model-1.safetensors", {bytes("a", "old"), bytes("b", "b")});
  dir.write_tensors("model-2.safetensors", {bytes("a", "new")});
  const Checkpoint checkpoint = open_ok(dir);
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(text(checkpoint.find("a")), "new");
  EXPECT_THAT(checkpoint.notes(), ElementsAre(HasSubstr("\"a\" is in 2 files")));
}

TEST(Checkpoint, MissingDirectoryAndFileInItsPlace) {
  TestDirectory dir;
  const auto missing = Checkpoint::open(dir.path() / "nowhere");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::bad_input);
  EXPECT_THAT(missing.error().message, HasSubstr("no such directory"));
  dir.write("file", "x");
  const auto file = Checkpoint::open(dir.path() / "file");
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.error().message, HasSubstr("not a directory"));
}

TEST(Checkpoint, NamedPipeDoesNotHang) {
  TestDirectory dir;
  dir.write("config.json", small_config());
  ASSERT_EQ(mkfifo((dir.path() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(open_error(dir), HasSubstr("regular file"));
}

TEST(Checkpoint, SizeLimitsOfSmallFiles) {
  TestDirectory dir;
  dir.write_tensors("model.safetensors", {});
  dir.write("config.json", small_config() + std::string((1 << 20) - small_config().size(), ' '));
  EXPECT_TRUE(Checkpoint::open(dir.path()).ok());
  dir.write("config.json", small_config() + std::string((1 << 20) - small_config().size() + 1, ' '));
  EXPECT_THAT(open_error(dir), HasSubstr("1048577 bytes; expected at most 1048576"));
}

}  // namespace
}  // namespace nibble::formats
