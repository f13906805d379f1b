// LinearModule: against the definition and against float64 sums over weights given to it; errors.
#include "nibble/modules/linear.h"

#include <gtest/gtest.h>

#include "tests/modules/support.h"

namespace nibble::testing {
namespace {

constexpr std::size_t kIn = 192;
constexpr std::size_t kOut = 80;

LinearModuleConfig small(std::string scheme, bool gated) {
  return {.in_features = kIn,
          .out_features = kOut,
          .gated = gated,
          .scheme = std::move(scheme),
          .max_tokens = 70};
}

class LinearLayer : public OnPlace {};

TEST_P(LinearLayer, IsTheDefinition) {
  for (const std::string scheme : {"bf16", "mxfp4", "nvfp4", "fp8", "int8", "int4", "fp8_w8a8"}) {
    for (const bool gated : {false, true}) {
      auto made = LinearModule::create_dummy(device, small(scheme, gated), 5);
      ASSERT_TRUE(made.ok()) << made.error().message;
      EXPECT_GT((*made)->weight_bytes(), kIn * kOut / 2);
      for (const std::size_t tokens : {0U, 1U, 9U, 70U}) {
        Random random(tokens);
        const std::vector<float> x = random.floats(static_cast<std::int64_t>(tokens * kIn), -3.0F, 3.0F);
        std::vector<float> y(tokens * kOut, NAN);
        const Status status = (*made)->forward_host(x, y);
        ASSERT_TRUE(status.ok()) << status.error().message;
        const std::vector<double> want = (*made)->reference(x).value();
        EXPECT_LE(row_error(y, want, kOut), GetParam().error)
            << scheme << (gated ? ", gated, " : ", ") << tokens << " tokens";
      }
    }
  }
}

TEST_P(LinearLayer, GivenWeights) {
  Random random(3);
  const std::vector<float> w = random.floats(kOut * kIn, -0.2F, 0.2F);
  const std::vector<float> v = random.floats(kOut * kIn, -0.2F, 0.2F);
  const LinearWeights weights{.weight = HostMatrix(w, kOut, kIn), .up = HostMatrix(v, kOut, kIn)};
  auto made = LinearModule::create(device, small("f32", true), weights);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const std::vector<float> x = random.floats(3 * kIn);
  std::vector<double> want;
  for (std::size_t token = 0; token < 3; ++token) {
    for (std::size_t row = 0; row < kOut; ++row) {
      double gate = 0;
      double up = 0;
      for (std::size_t i = 0; i < kIn; ++i) {
        const auto value = static_cast<double>(x[token * kIn + i]);
        gate += value * static_cast<double>(w[row * kIn + i]);
        up += value * static_cast<double>(v[row * kIn + i]);
      }
      want.push_back(gate / (1.0 + std::exp(-gate)) * up);
    }
  }
  std::vector<float> y(3 * kOut, NAN);
  ASSERT_TRUE((*made)->forward_host(x, y).ok());
  EXPECT_LE(row_error(y, want, kOut), GetParam().error);
}

TEST_P(LinearLayer, RecordedCallsReadWhatMemoryHolds) {
  auto made = LinearModule::create_dummy(device, small("mxfp4", false), 1);
  ASSERT_TRUE(made.ok()) << made.error().message;
  Random random(8);
  const DeviceArray x = place(random.floats(2 * kIn));
  const DeviceArray y = place(std::vector<float>(2 * kOut, NAN));
  for (int i = 0; i < 4; ++i) {
    const std::vector<float> values = random.floats(2 * kIn);
    ASSERT_TRUE(device->upload(x.data(), values.data(), x.bytes()).ok());
    const Status status = device->run_recorded(7, [&] { return (*made)->forward(2, x.f32(), y.f32()); });
    ASSERT_TRUE(status.ok()) << status.error().message;
    EXPECT_LE(row_error(fetch(y), (*made)->reference(values).value(), kOut), GetParam().error);
  }
  device->forget_recorded();
}

TEST_P(LinearLayer, Errors) {
  const auto make = [&](const LinearModuleConfig& config) {
    return LinearModule::create_dummy(device, config, 1);
  };
  LinearModuleConfig config = small("bf16", false);
  config.in_features = 0;
  expect_error(make(config), ErrorCode::bad_input, "in_features is 0");
  config = small("mxfp4", false);
  config.in_features = 100;
  expect_error(make(config), ErrorCode::bad_input, "100 inputs");
  expect_error(make(small("w3", false)), ErrorCode::unsupported, "w3");

  const std::vector<float> w(kOut * kIn, 0.5F);
  const LinearWeights lacks_up{.weight = HostMatrix(w, kOut, kIn), .up = {}};
  expect_error(LinearModule::create(device, small("bf16", true), lacks_up), ErrorCode::bad_input,
               "up is [0, 0]");
  std::vector<float> broken = w;
  broken[kIn + 2] = NAN;
  expect_error(
      LinearModule::create(device, small("bf16", false), {.weight = HostMatrix(broken, kOut, kIn), .up = {}}),
      ErrorCode::bad_input, "row 1, column 2");

  auto made = make(small("bf16", false));
  ASSERT_TRUE(made.ok()) << made.error().message;
  std::vector<float> x(71 * kIn, 0.0F);
  std::vector<float> y(71 * kOut, 0.0F);
  expect_error((*made)->forward_host(x, y), ErrorCode::bad_input, "max_tokens = 70");
  expect_error((*made)->forward_host(std::span(x).first(kIn + 1), y), ErrorCode::bad_input,
               "tokens times 192 and 80");
  expect_error((*made)->forward(1, nullptr, nullptr), ErrorCode::bad_input, "null");
  expect_error((*made)->forward(-1, nullptr, nullptr), ErrorCode::bad_input, "-1 tokens");
  expect_error((*made)->reference(std::span(x).first(5)), ErrorCode::bad_input, "tokens times 192");
}

INSTANTIATE_TEST_SUITE_P(Places, LinearLayer, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace nibble::testing
