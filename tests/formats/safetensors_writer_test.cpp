// Written files read back, and files that cannot be written leave nothing behind.
#include "formats/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>

#include "formats/mapped_file.h"
#include "formats/safetensors.h"
#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<TensorHeader> kTensors = {
    {"codes", DType::u8, {3, 5}}, {"b \"quoted\"", DType::bf16, {3}}, {"a", DType::bf16, {1, 2}},
    {"global", DType::f32, {}},   {"shape", DType::i64, {2}},         {"none", DType::f32, {0, 7}},
};

std::vector<std::byte> pattern(const TensorHeader& tensor) {
  std::vector<std::byte> bytes(tensor.num_bytes());
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(tensor.name.size() + 7 * i);
  return bytes;
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename());
  return names;
}

TEST(SafetensorsWriter, IsReadBack) {
  const TestDirectory dir;
  const fs::path path = dir.path() / "model.safetensors";
  auto writer = SafetensorsWriter::create(path, kTensors);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  // Any order.
  for (const std::size_t i : {3, 0, 5, 1, 4, 2}) ASSERT_TRUE(writer->write(i, pattern(kTensors[i])).ok());
  EXPECT_THAT(names_in(dir.path()), ElementsAre("model.safetensors.partial"));
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_THAT(names_in(dir.path()), ElementsAre("model.safetensors"));

  const auto file = MappedFile::open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->bytes().size(), writer->file_bytes());
  const auto layout = parse_safetensors(file->bytes(), "file");
  ASSERT_TRUE(layout.ok()) << layout.error().message;
  EXPECT_EQ(layout->data_begin % 8, 0U);
  ASSERT_EQ(layout->tensors.size(), kTensors.size());
  for (const SafetensorsEntry& entry : layout->tensors) {
    const auto want = std::find_if(kTensors.begin(), kTensors.end(),
                                   [&](const TensorHeader& t) { return t.name == entry.name; });
    ASSERT_NE(want, kTensors.end()) << entry.name;
    EXPECT_EQ(entry.dtype, want->dtype);
    EXPECT_EQ(entry.shape, want->shape);
    EXPECT_EQ(entry.begin * 8 % static_cast<std::uint64_t>(dtype_bits(entry.dtype)), 0U) << entry.name;
    const std::vector<std::byte> bytes = pattern(*want);
    ASSERT_EQ(entry.end - entry.begin, bytes.size());
    if (bytes.empty()) continue;
    EXPECT_EQ(
        std::memcmp(file->bytes().data() + layout->data_begin + entry.begin, bytes.data(), bytes.size()), 0)
        << entry.name;
  }
}

TEST(SafetensorsWriter, WithoutTensors) {
  const TestDirectory dir;
  auto writer = SafetensorsWriter::create(dir.path() / "model.safetensors", {});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->finish().ok());
  const auto file = MappedFile::open(dir.path() / "model.safetensors");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(parse_safetensors(file->bytes(), "file").ok());
}

TEST(SafetensorsWriter, UnfinishedLeavesNothing) {
  const TestDirectory dir;
  {
    auto writer = SafetensorsWriter::create(dir.path() / "model.safetensors", kTensors);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write(0, pattern(kTensors[0])).ok());
    const SafetensorsWriter moved = std::move(writer).value();
    EXPECT_THAT(names_in(dir.path()), ElementsAre("model.safetensors.partial"));
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(SafetensorsWriter, ReplacesAnInterruptedAttemptAndTheFile) {
  const TestDirectory dir;
  dir.write("model.safetensors.partial", std::string(10000, 'x'));
  dir.write("model.safetensors", "old");
  auto writer = SafetensorsWriter::create(dir.path() / "model.safetensors", {});
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(read_small_file(dir.path() / "model.safetensors", 100).value(), "old");
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(fs::file_size(dir.path() / "model.safetensors"), writer->file_bytes());
  EXPECT_THAT(names_in(dir.path()), ElementsAre("model.safetensors"));
}

TEST(SafetensorsWriter, PathThatCannotBeWritten) {
  const TestDirectory dir;
  const auto writer = SafetensorsWriter::create(dir.path() / "missing" / "model.safetensors", kTensors);
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code, ErrorCode::bad_input);
  EXPECT_THAT(writer.error().message, HasSubstr("missing/model.safetensors"));
  EXPECT_THAT(writer.error().message, HasSubstr("No such file or directory"));
}

// A limit on file sizes stands for a full disk.
TEST(SafetensorsWriter, NoRoom) {
  const TestDirectory dir;
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit low{1000, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &low), 0);
  const auto writer = SafetensorsWriter::create(dir.path() / "big", {{"w", DType::u8, {100'000}}});
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code, ErrorCode::runtime);
  EXPECT_THAT(writer.error().message, HasSubstr("File too large"));
  EXPECT_TRUE(names_in(dir.path()).empty());
}

}  // namespace
}  // namespace nibble::formats
