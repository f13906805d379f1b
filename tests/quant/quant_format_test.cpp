#include "quant/quant_format.h"

#include <gtest/gtest.h>

#include <set>

namespace nibble::quant {
namespace {

TEST(QuantFormat, EveryRowIsFoundByFormatAndByName) {
  std::set<std::string_view> names;
  for (const FormatRow& row : formats()) {
    EXPECT_EQ(&format_row(row.format), &row);
    EXPECT_EQ(format_from_name(row.name), row.format);
    EXPECT_EQ(format_name(row.format), row.name);
    EXPECT_TRUE(names.insert(row.name).second) << row.name << " twice";
  }
  EXPECT_EQ(names.size(), kNumFormats);
  EXPECT_FALSE(format_from_name("q4_k").has_value());
  EXPECT_FALSE(format_from_name("").has_value());
}

TEST(QuantFormat, CodesFillWholeBytes) {
  for (const FormatRow& row : formats()) EXPECT_EQ(row.bits * row.codes_per_byte_group % 8, 0) << row.name;
}

}  // namespace
}  // namespace nibble::quant
