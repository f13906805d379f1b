// Replays tests/data/malformed (written by tools/make_malformed.py): every broken directory is refused
// with the expected code and a message that names file, tensor and field, quickly and in little memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "tests/formats/model_tensors.h"
#include "tests/support/paths.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;

struct MalformedCase {
  fs::path dir;
  int exit = 0;
  std::string checked_by;
  std::vector<std::string> mentions;
};

void PrintTo(const MalformedCase& c, std::ostream* out) { *out << c.dir.filename(); }

std::vector<MalformedCase> load_cases() {
  std::vector<MalformedCase> cases;
  const fs::path root = testing::test_data("malformed");
  if (!fs::exists(root)) return cases;
  std::ifstream file(root / "expected.json");
  const auto all = nlohmann::json::parse(file);
  for (const auto& [name, expected] : all.items()) {
    cases.push_back({root / name, expected["exit"], expected["checked_by"], expected["mentions"]});
  }
  std::sort(cases.begin(), cases.end(),
            [](const MalformedCase& a, const MalformedCase& b) { return a.dir < b.dir; });
  return cases;
}

class Malformed : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(Malformed, IsRefusedByName) {
  const MalformedCase& c = GetParam();
  if (c.checked_by != "formats") GTEST_SKIP() << "checked by " << c.checked_by;
  const auto begin = std::chrono::steady_clock::now();
  const Status status = walk_checkpoint(c.dir);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 1.0);
  if (c.exit == 0) {
    EXPECT_TRUE(status.ok()) << status.error().message;
    return;
  }
  ASSERT_FALSE(status.ok()) << "was accepted";
  EXPECT_EQ(static_cast<int>(status.error().code), c.exit) << status.error().message;
  EXPECT_LT(status.error().message.size(), 3000U);
  for (const std::string& mention : c.mentions) {
    EXPECT_THAT(status.error().message, ::testing::HasSubstr(mention));
  }
  RecordProperty("message", status.error().message);
}

INSTANTIATE_TEST_SUITE_P(Corpus, Malformed, ::testing::ValuesIn(load_cases()),
                         [](const auto& test) { return test.param.dir.filename().string(); });

TEST(MalformedCorpus, IsThere) { EXPECT_GE(load_cases().size(), 300U) << "run tools/make_malformed.py"; }

TEST(MalformedCorpus, PeakMemoryStaysSmall) {
  for (const MalformedCase& c : load_cases()) {
    if (c.checked_by == "formats") (void)walk_checkpoint(c.dir);
  }
  rusage usage{};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  EXPECT_LT(usage.ru_maxrss, 256 * 1024) << "KiB, the whole test process";
}

}  // namespace
}  // namespace nibble::formats
