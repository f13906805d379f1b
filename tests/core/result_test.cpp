// Result, its macros, checks, dtypes and the log sink.
#include "nibble/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "core/check.h"
#include "core/dtype.h"
#include "core/log.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

Result<int> half(int x) {
  if (x % 2 != 0) return bad_input("odd");
  return x / 2;
}

Result<int> quarter(int x) {
  NIB_TRY(const int h, half(x));
  NIB_TRY(const int q, half(h));
  return q;
}

Status is_even(int x) {
  NIB_TRY_STATUS(half(x));
  return {};
}

TEST(Result, TryPassesValuesAndErrorsOn) {
  EXPECT_EQ(quarter(12).value(), 3);
  ASSERT_FALSE(quarter(6).ok());
  EXPECT_EQ(quarter(6).error().code, ErrorCode::bad_input);
  EXPECT_TRUE(is_even(2).ok());
  EXPECT_FALSE(is_even(3).ok());
}

TEST(Result, HoldsMoveOnlyTypes) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 5);
}

TEST(Result, ContextGoesInFront) {
  const Error error = unsupported("format q4_k").with_context("model.safetensors");
  EXPECT_EQ(error.message, "model.safetensors: format q4_k");
  EXPECT_EQ(error.code, ErrorCode::unsupported);
}

// Scripts rely on these.
TEST(Result, CodesAreExitCodes) {
  EXPECT_EQ(static_cast<int>(ErrorCode::runtime), 1);
  EXPECT_EQ(static_cast<int>(ErrorCode::bad_input), 2);
  EXPECT_EQ(static_cast<int>(ErrorCode::unsupported), 3);
  EXPECT_EQ(static_cast<int>(ErrorCode::out_of_memory), 4);
  EXPECT_EQ(static_cast<int>(ErrorCode::interrupted), 130);
}

TEST(Check, NamesConditionPlaceAndValues) {
  const int pages = -1;
  try {
    NIB_CHECK(pages >= 0, "{} pages", pages);
    FAIL() << "the check did not throw";
  } catch (const InternalError& e) {
    EXPECT_THAT(e.what(), HasSubstr("pages >= 0"));
    EXPECT_THAT(e.what(), HasSubstr("-1 pages"));
    EXPECT_THAT(e.what(), HasSubstr("result_test.cpp"));
  }
}

TEST(DType, NamesAreUniqueAndFoundAgain) {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(DType::u64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_TRUE(names.insert(dtype_name(dtype)).second);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_FALSE(dtype_from_name("bf16").has_value());
  EXPECT_FALSE(dtype_from_name("").has_value());
  EXPECT_EQ(dtype_bits(DType::f4_e2m1), 4);
  EXPECT_EQ(dtype_bits(DType::f6_e3m2), 6);
  EXPECT_EQ(dtype_bits(DType::f8_e8m0), 8);
  EXPECT_EQ(dtype_bits(DType::bf16), 16);
  EXPECT_EQ(dtype_bits(DType::c64), 64);
}

TEST(Log, GoesToTheSinkOnly) {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel level, std::string_view line) {
    lines.push_back((level == LogLevel::warning ? "W " : "I ") + std::string(line));
  });
  log(LogLevel::warning, "{} of {}", 1, 2);
  log(LogLevel::info, "done");
  set_log_sink({});
  log(LogLevel::error, "dropped");
  EXPECT_THAT(lines, ::testing::ElementsAre("W 1 of 2", "I done"));
}

}  // namespace
}  // namespace nibble
