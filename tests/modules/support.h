// Where the module tests run: the CPU's scalar and best tiers, or with NIBBLE_TEST_DEVICE=cuda a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "nibble/modules.h"
#include "tests/support/random.h"

namespace nibble::testing {

struct Place {
  std::string name;
  ModuleDeviceOptions options;
  double error;  // of one layer's output, in units of the output row's rms
};

inline void PrintTo(const Place& place, std::ostream* out) { *out << place.name; }

inline bool on_gpu() {
  const char* device = std::getenv("NIBBLE_TEST_DEVICE");
  return device != nullptr && std::string(device) == "cuda";
}

// Operands rounded to bf16 in several stages: 2^-9 each, seldom over four standard deviations.
inline constexpr double kBf16Error = 0.05;

inline std::vector<Place> places() {
  if (on_gpu()) return {{"cuda", {.device = "cuda"}, kBf16Error}};
  return {{"scalar", {.device = "cpu", .num_threads = 2, .isa = "scalar"}, 1e-5},
          {"best", {.device = "cpu", .num_threads = 2}, kBf16Error}};
}

class OnPlace : public ::testing::TestWithParam<Place> {
 protected:
  void SetUp() override {
    auto opened = ModuleDevice::open(GetParam().options);
    if (!opened.ok() && on_gpu()) GTEST_SKIP() << "no GPU for these tests: " << opened.error().message;
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    device = *opened;
  }

  // A copy in the device's memory.
  template <class T>
  DeviceArray place(const std::vector<T>& values) {
    DeviceArray array = device->allocate(values.size() * sizeof(T)).value();
    EXPECT_TRUE(device->upload(array.data(), values.data(), values.size() * sizeof(T)).ok());
    return array;
  }
  std::vector<float> fetch(const DeviceArray& array) {
    std::vector<float> values(array.bytes() / sizeof(float));
    EXPECT_TRUE(device->download(values.data(), array.data(), array.bytes()).ok());
    return values;
  }

  std::shared_ptr<ModuleDevice> device;
};

inline std::string place_name(const ::testing::TestParamInfo<Place>& info) { return info.param.name; }

// Largest |actual - expected| of any row, in units of that row's rms; infinite for a NaN.
template <class Expected>
double row_error(std::span<const float> actual, const Expected& expected, std::size_t width) {
  EXPECT_EQ(actual.size(), expected.size());
  double worst = 0;
  for (std::size_t begin = 0; begin + width <= actual.size(); begin += width) {
    double squares = 0;
    double largest = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      const auto want = static_cast<double>(expected[i]);
      const double diff = std::abs(static_cast<double>(actual[i]) - want);
      squares += want * want;
      largest = std::isnan(diff) ? HUGE_VAL : std::max(largest, diff);
    }
    worst = std::max(worst, largest / std::sqrt(squares / static_cast<double>(width)));
  }
  return worst;
}

inline void expect_error(const Status& status, ErrorCode code, const std::string& part) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, code) << status.error().message;
  EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
}

template <class T>
void expect_error(const Result<T>& result, ErrorCode code, const std::string& part) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
}

}  // namespace nibble::testing
