// MoeModule: against the definition and against float64 sums over weights given to it; errors.
#include "nibble/modules/moe.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/modules/support.h"

namespace nibble::testing {
namespace {

constexpr std::size_t kHidden = 96;
constexpr std::size_t kInner = 64;
constexpr std::size_t kExperts = 6;
constexpr std::size_t kTopk = 3;

MoeModuleConfig small(std::string scheme = "bf16") {
  return {.hidden_size = kHidden,
          .intermediate_size = kInner,
          .num_experts = kExperts,
          .experts_per_token = kTopk,
          .scheme = std::move(scheme),
          .max_tokens = 80};
}

struct Routing {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

// Distinct experts per token, in any order; every fifth id is -1.
Routing random_routing(Random& random, std::size_t tokens) {
  Routing routing;
  for (std::size_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> left;
    for (std::size_t e = 0; e < kExperts; ++e) left.push_back(static_cast<std::int32_t>(e));
    for (std::size_t i = 0; i < kTopk; ++i) {
      const auto at = left.begin() + random.below(static_cast<std::int64_t>(left.size()));
      routing.ids.push_back(routing.ids.size() % 5 == 4 ? -1 : *at);
      routing.weights.push_back(random.uniform(0.1F, 1.0F));
      left.erase(at);
    }
  }
  return routing;
}

class Moe : public OnPlace {};

TEST_P(Moe, RoutedFromOutsideIsTheDefinition) {
  for (const std::string scheme : {"bf16", "mxfp4", "nvfp4", "fp8", "int4", "mxfp4_w4a8"}) {
    auto made = MoeModule::create_dummy(device, small(scheme), 3);
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_GT((*made)->expert_bytes(), 0U);
    EXPECT_EQ((*made)->weight_bytes(), kExperts * (*made)->expert_bytes());
    for (const std::size_t tokens : {0U, 1U, 7U, 80U}) {
      Random random(tokens);
      const Routing routing = random_routing(random, tokens);
      const std::vector<float> x = random.floats(static_cast<std::int64_t>(tokens * kHidden));
      const std::vector<float> before = random.floats(static_cast<std::int64_t>(tokens * kHidden));
      std::vector<float> y = before;
      if (tokens > 0) {
        const Status status = (*made)->forward_add_host(x, routing.ids, routing.weights, y);
        ASSERT_TRUE(status.ok()) << status.error().message;
      }
      std::vector<double> want = (*made)->reference(x, routing.ids, routing.weights).value();
      for (std::size_t i = 0; i < want.size(); ++i) want[i] += static_cast<double>(before[i]);
      // Eight-bit codes of hidden values may be their neighbours where sums differ a little.
      const double tolerance = scheme == "mxfp4_w4a8" ? 0.1 : GetParam().error;
      EXPECT_LE(row_error(y, want, kHidden), tolerance) << scheme << ", " << tokens << " tokens";
    }
  }
}

TEST_P(Moe, GivenWeightsWithGateAndSharedExperts) {
  MoeModuleConfig config = small("f32");
  config.gate = MoeGate::sigmoid;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5F;
  config.has_correction_bias = true;
  config.shared_intermediate_size = 40;
  Random random(11);
  const auto matrix = [&](std::size_t rows, std::size_t columns) {
    return random.floats(static_cast<std::int64_t>(rows * columns), -0.2F, 0.2F);
  };
  const std::vector<float> gate = matrix(kExperts * kInner, kHidden);
  const std::vector<float> up = matrix(kExperts * kInner, kHidden);
  const std::vector<float> down = matrix(kExperts * kHidden, kInner);
  const std::vector<float> shared_gate = matrix(40, kHidden);
  const std::vector<float> shared_up = matrix(40, kHidden);
  const std::vector<float> shared_down = matrix(kHidden, 40);
  const std::vector<float> router = matrix(kExperts, kHidden);
  const std::vector<float> bias{0.0F, 0.3F, -0.3F, 0.0F, 0.1F, 0.0F};
  MoeWeights weights;
  weights.gate_proj = HostMatrix(gate, kExperts * kInner, kHidden);
  weights.up_proj = HostMatrix(up, kExperts * kInner, kHidden);
  weights.down_proj = HostMatrix(down, kExperts * kHidden, kInner);
  weights.shared_gate_proj = HostMatrix(shared_gate, 40, kHidden);
  weights.shared_up_proj = HostMatrix(shared_up, 40, kHidden);
  weights.shared_down_proj = HostMatrix(shared_down, kHidden, 40);
  weights.router = HostMatrix(router, kExperts, kHidden);
  weights.correction_bias = bias;
  auto made = MoeModule::create(device, config, weights);
  ASSERT_TRUE(made.ok()) << made.error().message;

  constexpr std::size_t kTokens = 9;
  const std::vector<float> x = random.floats(kTokens * kHidden);
  std::vector<float> y(x.size(), 0.0F);
  ASSERT_TRUE((*made)->forward_add_host(x, y).ok());

  const auto product = [](const std::vector<float>& w, std::size_t first_row, std::size_t rows,
                          const std::vector<double>& v) {
    std::vector<double> out(rows, 0.0);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < v.size(); ++i)
        out[r] += static_cast<double>(w[(first_row + r) * v.size() + i]) * v[i];
    }
    return out;
  };
  const auto mlp = [&](const std::vector<float>& g, const std::vector<float>& u, const std::vector<float>& d,
                       std::size_t expert, std::size_t inner, const std::vector<double>& v) {
    std::vector<double> hidden = product(g, expert * inner, inner, v);
    const std::vector<double> factor = product(u, expert * inner, inner, v);
    for (std::size_t i = 0; i < inner; ++i) hidden[i] *= factor[i] / (1.0 + std::exp(-hidden[i]));
    return product(d, expert * kHidden, kHidden, hidden);
  };
  std::vector<double> want;
  for (std::size_t t = 0; t < kTokens; ++t) {
    const std::vector<double> row(x.begin() + static_cast<std::ptrdiff_t>(t * kHidden),
                                  x.begin() + static_cast<std::ptrdiff_t>((t + 1) * kHidden));
    std::vector<double> score = product(router, 0, kExperts, row);
    for (double& s : score) s = 1.0 / (1.0 + std::exp(-s));
    std::vector<std::size_t> order(kExperts);
    for (std::size_t e = 0; e < kExperts; ++e) order[e] = e;
    std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
      return score[a] + static_cast<double>(bias[a]) > score[b] + static_cast<double>(bias[b]);
    });
    double sum = 0;
    for (std::size_t i = 0; i < kTopk; ++i) sum += score[order[i]];
    std::vector<double> out = mlp(shared_gate, shared_up, shared_down, 0, 40, row);
    for (std::size_t i = 0; i < kTopk; ++i) {
      const std::vector<double> expert = mlp(gate, up, down, order[i], kInner, row);
      for (std::size_t j = 0; j < kHidden; ++j) out[j] += 2.5 * score[order[i]] / sum * expert[j];
    }
    want.insert(want.end(), out.begin(), out.end());
  }
  EXPECT_LE(row_error(y, want, kHidden), GetParam().error);

  // The gate's own choice, given from outside, is the same layer; and so is its definition.
  const DeviceArray x_there = place(x);
  const DeviceArray ids = device->allocate(kTokens * kTopk * sizeof(std::int32_t)).value();
  const DeviceArray chosen = device->allocate(kTokens * kTopk * sizeof(float)).value();
  ASSERT_TRUE((*made)->route(kTokens, x_there.f32(), ids.i32(), chosen.f32()).ok());
  for (int i = 0; i < 3; ++i) {  // the third time from a recording, where there are any
    const DeviceArray y_there = place(std::vector<float>(x.size(), 0.0F));
    ASSERT_TRUE((*made)->forward_add(kTokens, x_there.f32(), ids.i32(), chosen.f32(), y_there.f32()).ok());
    EXPECT_LE(row_error(fetch(y_there), want, kHidden), GetParam().error);
    device->forget_recorded();
  }
  std::vector<std::int32_t> ids_here(kTokens * kTopk);
  ASSERT_TRUE(device->download(ids_here.data(), ids.data(), ids.bytes()).ok());
  EXPECT_LE(row_error(std::vector<float>(want.begin(), want.end()),
                      (*made)->reference(x, ids_here, fetch(chosen)).value(), kHidden),
            1e-4);
}

TEST_P(Moe, RecordedSequencesOfModules) {
  auto first = MoeModule::create_dummy(device, small("mxfp4"), 1).value();
  auto second = MoeModule::create_dummy(device, small("mxfp4"), 2).value();
  Random random(2);
  const Routing routing = random_routing(random, 2);
  const DeviceArray x = place(random.floats(2 * kHidden));
  const DeviceArray ids = place(routing.ids);
  const DeviceArray weights = place(routing.weights);
  const auto run = [&](const DeviceArray& y) {
    return device->run_recorded(3, [&]() -> Status {
      NIB_TRY_STATUS(first->forward_add(2, x.f32(), ids.i32(), weights.f32(), y.f32()));
      return second->forward_add(2, x.f32(), ids.i32(), weights.f32(), y.f32());
    });
  };
  const DeviceArray y = place(std::vector<float>(2 * kHidden, 0.0F));
  ASSERT_TRUE(run(y).ok());
  const std::vector<float> once = fetch(y);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run(y).ok());
  std::vector<double> want(once.begin(), once.end());
  for (double& v : want) v *= 4;
  EXPECT_LE(row_error(fetch(y), want, kHidden), 1e-4);
  expect_error(device->run_recorded(0, [] { return Status(); }), ErrorCode::bad_input, "key");
}

TEST_P(Moe, WrongCallsAreRefused) {
  auto moe = MoeModule::create_dummy(device, small(), 1).value();
  std::vector<float> x(81 * kHidden, 0.5F);
  std::vector<float> y(x.size());
  const std::vector<std::int32_t> ids{0, 1, 2};
  const std::vector<float> weights{1, 1, 1};
  const std::span<const float> one(x.data(), kHidden);
  const std::span<float> out(y.data(), kHidden);
  expect_error(moe->forward_add_host(one, out), ErrorCode::bad_input, "no gate");
  expect_error(moe->forward_add_host(one.first(5), ids, weights, out), ErrorCode::bad_input,
               "hidden_size = 96");
  expect_error(moe->forward_add_host(one, std::span(ids).first(2), weights, out), ErrorCode::bad_input,
               "2 expert ids");
  expect_error(moe->forward_add_host(one, std::vector<std::int32_t>{0, 1, 6}, weights, out),
               ErrorCode::bad_input, "expert id 6 at 2");
  expect_error(moe->forward_add(81, x.data(), ids.data(), weights.data(), y.data()), ErrorCode::bad_input,
               "max_tokens = 80");
  expect_error(moe->forward_add(-1, x.data(), ids.data(), weights.data(), y.data()), ErrorCode::bad_input,
               "-1 tokens");
  expect_error(moe->forward_add(1, nullptr, ids.data(), weights.data(), y.data()), ErrorCode::bad_input,
               "null");
  expect_error(moe->route(1, x.data(), nullptr, y.data()), ErrorCode::bad_input, "no gate");
  expect_error(moe->reference(one, ids, std::span(weights).first(1)), ErrorCode::bad_input, "weights 1");

  const auto refused = [&](auto change, const std::string& part, ErrorCode code = ErrorCode::bad_input) {
    MoeModuleConfig config = small();
    change(config);
    expect_error(MoeModule::create_dummy(device, config, 1), code, part);
  };
  refused([](auto& c) { c.experts_per_token = 7; }, "experts_per_token is 7");
  refused([](auto& c) { c.intermediate_size = 0; }, "intermediate_size");
  refused([](auto& c) { c.hidden_size = c.intermediate_size = 1 << 20, c.num_experts = 65536; },
          "are available", ErrorCode::out_of_memory);
  refused([](auto& c) { c.scheme = "nothing"; }, "nothing", ErrorCode::unsupported);
  refused([](auto& c) { c.scheme = "nvfp4", c.hidden_size = 90; }, "90 inputs");
  refused([](auto& c) { c.gate = MoeGate::softmax, c.n_group = 4; }, "4 groups");
  refused([](auto& c) { c.gate = MoeGate::softmax, c.n_group = 3, c.topk_group = 1; },
          "groups have 2 experts");
  const std::vector<float> wrong(10);
  MoeWeights given;
  given.gate_proj = HostMatrix(wrong, 2, 5);
  expect_error(MoeModule::create(device, small(), given), ErrorCode::bad_input,
               "gate_proj is [2, 5], must be [384, 96]");
}

INSTANTIATE_TEST_SUITE_P(Places, Moe, ::testing::ValuesIn(places()), place_name);

TEST(ModuleDevice, UnknownDevicesAreRefused) {
  expect_error(ModuleDevice::open({.device = "tpu"}), ErrorCode::bad_input, "device 'tpu'");
  expect_error(ModuleDevice::open({.device = "cpu", .num_threads = -1}), ErrorCode::bad_input,
               "num_threads is -1");
}

}  // namespace
}  // namespace nibble::testing
