// fused_moe on every tier and format, with all kinds of routes.
#include <gtest/gtest.h>

#include <thread>

#include "quant/activations.h"
#include "quant/float8.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/matrices.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

constexpr std::int64_t kExperts = 5;

struct Routes {
  std::int32_t topk;
  std::vector<std::int32_t> ids;  // [m, topk]
  std::vector<float> weights;
};

// Distinct ascending experts per token; now and then an expert that lives elsewhere (-1).
Routes random_routes(Random& random, std::int64_t m, std::int32_t topk) {
  Routes r{.topk = topk, .ids = {}, .weights = random.floats(m * topk, 0.1F, 1.0F)};
  for (std::int64_t i = 0; i < m; ++i) {
    std::int64_t left = topk;
    for (std::int64_t e = 0; e < kExperts && left > 0; ++e) {
      if (random.below(kExperts - e) >= left) continue;
      r.ids.push_back(random.below(6) == 0 ? -1 : static_cast<std::int32_t>(e));
      --left;
    }
  }
  return r;
}

struct Experts {
  PackedGroups gate;
  PackedGroups up;
  PackedGroups down;
};

constexpr std::int64_t kWholeRow = -1;  // as group_k: one scale for a row of either length

Experts random_experts(Device& device, Random& random, quant::WeightFormat format, std::int64_t n,
                       std::int64_t k, quant::Grouping grouping = {}, std::int64_t count = kExperts) {
  quant::Grouping of_down = grouping;
  if (grouping.group_k == kWholeRow) {
    grouping.group_k = k;
    of_down.group_k = n;
  }
  return {.gate = random_groups(device, random, format, count, n, k, grouping),
          .up = random_groups(device, random, format, count, n, k, grouping),
          .down = random_groups(device, random, format, count, k, n, of_down)};
}

float rounded_to_e4m3(double value, double scale) {
  const auto code = quant::float_to_e4m3_saturated(static_cast<float>(value / scale));
  return quant::e4m3_to_float(code);
}

// Hidden values in E4M3 groups of 128. A value whose bounds reach across a rounding boundary, of its own or
// by way of the group's scale, may come out on either side.
std::vector<Bounded> quantised_fp8(const std::vector<Bounded>& hidden) {
  constexpr std::size_t kGroup = 128;
  std::vector<Bounded> result;
  for (std::size_t begin = 0; begin < hidden.size(); begin += kGroup) {
    const std::size_t end = std::min(begin + kGroup, hidden.size());
    double low = 1e-12;
    double high = 1e-12;
    double middle = 1e-12;
    for (std::size_t i = begin; i < end; ++i) {
      const double magnitude = std::abs(hidden[i].value);
      low = std::max(low, magnitude - hidden[i].bound);
      middle = std::max(middle, magnitude);
      high = std::max(high, magnitude + hidden[i].bound);
    }
    const double scale = middle / 448.0;
    for (std::size_t i = begin; i < end; ++i) {
      const double value = static_cast<double>(rounded_to_e4m3(hidden[i].value, scale)) * scale;
      double bound = 4.0 * kEpsF32 * std::abs(value);
      const double scales[2] = {low / 448.0 * (1.0 - 0x1p-22), high / 448.0 * (1.0 + 0x1p-22)};
      // Codes grow with the value and shrink with the scale: the ends of all three give the extremes.
      for (const double v : {hidden[i].value - hidden[i].bound, hidden[i].value + hidden[i].bound}) {
        for (const double divisor : scales) {
          for (const double factor : scales) {
            const double other = static_cast<double>(rounded_to_e4m3(v, divisor)) * factor;
            bound = std::max(bound, std::abs(other - value));
          }
        }
      }
      result.push_back({.value = value, .bound = bound});
    }
  }
  return result;
}

std::vector<Bounded> expected_output(const Experts& experts, const Routes& routes, std::span<const float> x,
                                     std::span<const float> y_before, bool bf16_products) {
  const std::int64_t n = experts.gate.packed.shape.n;
  const std::int64_t k = experts.gate.packed.shape.k;
  std::vector<Bounded> y = exact(y_before);
  const std::vector<Bounded> xs = exact(x);
  for (std::size_t slot = 0; slot < routes.ids.size(); ++slot) {
    if (routes.ids[slot] < 0) continue;
    const auto e = static_cast<std::size_t>(routes.ids[slot]);
    const std::size_t token = slot / static_cast<std::size_t>(routes.topk);
    const auto row = std::span(xs).subspan(token * static_cast<std::size_t>(k), static_cast<std::size_t>(k));
    const auto gate = product(row, experts.gate.weights[e], 1, n, k, bf16_products);
    const auto up = product(row, experts.up.weights[e], 1, n, k, bf16_products);
    std::vector<Bounded> hidden;
    for (std::size_t j = 0; j < gate.size(); ++j) hidden.push_back(gated(gate[j], up[j]));
    if (experts.down.packed.shape.activations == quant::ActivationFormat::fp8) hidden = quantised_fp8(hidden);
    const auto down = product(hidden, experts.down.weights[e], 1, k, n, bf16_products);
    for (std::size_t c = 0; c < down.size(); ++c) {
      Bounded& sum = y[token * static_cast<std::size_t>(k) + c];
      const auto weight = static_cast<double>(routes.weights[slot]);
      sum.value += weight * down[c].value;
      sum.bound += std::abs(weight) * down[c].bound +
                   4.0 * kEpsF32 * (std::abs(weight * down[c].value) + std::abs(sum.value));
    }
  }
  // Adding up in place rounds relative to what was there before.
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i].bound += 8.0 * kEpsF32 * std::abs(static_cast<double>(y_before[i]));
  return y;
}

FusedMoeArgs make_args(const Experts& experts, const Routes& routes, TensorView x, TensorView y,
                       const SharedExperts* shared) {
  return {.x = x,
          .topk_ids = routes.ids.data(),
          .topk_weights = routes.weights.data(),
          .topk = routes.topk,
          .gate = experts.gate.packed,
          .up = experts.up.packed,
          .down = experts.down.packed,
          .y = y,
          .shared = shared};
}

class FusedMoeTest : public KernelTest {
 protected:
  static std::vector<float> run(Device& device, const Experts& experts, const Routes& routes,
                                std::span<const float> x, std::span<const float> y_before,
                                const SharedExperts* shared = nullptr) {
    const std::int64_t k = experts.gate.packed.shape.k;
    const auto m = static_cast<std::int64_t>(x.size()) / k;
    const HostTensor x_tensor({m, k}, x, 3);
    const HostTensor y_tensor({m, k}, y_before, 5);
    device.table().fused_moe(device.exec(),
                             make_args(experts, routes, x_tensor.view(), y_tensor.view(), shared));
    if (gpu()) device.exec().memory().download({}, nullptr);  // waits
    EXPECT_TRUE(y_tensor.guards_intact());
    return y_tensor.values();
  }

  static void check(Random& random, const Experts& experts, const Routes& routes) {
    check_on(device(), random, experts, routes);
  }
  static void check_on(Device& device, Random& random, const Experts& experts, const Routes& routes) {
    const std::int64_t k = experts.gate.packed.shape.k;
    const std::int64_t m = static_cast<std::int64_t>(routes.ids.size()) / routes.topk;
    std::vector<float> x = activations(random, m * k);
    for (std::int64_t i = 0; i < m; ++i) {
      quant::quantize_dequantize(experts.gate.packed.shape.activations, x.data() + i * k, k,
                                 x.data() + i * k);
    }
    const std::vector<float> y_before = random.floats(m * k);
    EXPECT_TRUE(within_bounds(run(device, experts, routes, x, y_before),
                              expected_output(experts, routes, x, y_before, bf16_products())))
        << "m=" << m << " topk=" << routes.topk;
  }
  // `mlp` as shared experts, if the backend takes them along.
  bool check_with_shared(Random& random, const Experts& experts, const Experts& mlp, const Routes& routes) {
    const std::int64_t k = experts.gate.packed.shape.k;
    const auto tokens = routes.ids.size() / static_cast<std::size_t>(routes.topk);
    const std::vector<float> x = activations(random, static_cast<std::int64_t>(tokens) * k);
    const std::vector<float> y_before = random.floats(static_cast<std::int64_t>(tokens) * k);
    const SharedExperts shared{.gate = mlp.gate.packed, .up = mlp.up.packed, .down = mlp.down.packed};
    const HostTensor sizes({static_cast<std::int64_t>(tokens), k}, x, 0);
    const FusedMoeArgs args = make_args(experts, routes, sizes.view(), sizes.view(), &shared);
    if (!device().table().takes_shared_experts(args)) return false;
    std::vector<Bounded> expected = expected_output(experts, routes, x, y_before, bf16_products());
    const Routes everybody{
        .topk = 1, .ids = std::vector<std::int32_t>(tokens, 0), .weights = std::vector<float>(tokens, 1.0F)};
    const std::vector<float> nothing(x.size(), 0.0F);
    const std::vector<Bounded> more = expected_output(mlp, everybody, x, nothing, bf16_products());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expected[i].value += more[i].value;
      expected[i].bound +=
          more[i].bound + 4.0 * kEpsF32 * (std::abs(more[i].value) + std::abs(expected[i].value));
    }
    EXPECT_TRUE(within_bounds(run(device(), experts, routes, x, y_before, &shared), expected))
        << "m=" << tokens << " k=" << k << " shared n=" << mlp.gate.packed.shape.n;
    return true;
  }
};
NIB_KERNEL_TESTS(FusedMoeTest);

TEST_P(FusedMoeTest, AgreesWithDoublePrecision) {
  Random random(80);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const bool grouped = row.group_k > 1;
    const Experts experts =
        random_experts(device(), random, row.format, grouped ? 160 : 45, grouped ? 96 : 50);
    for (const std::int64_t m : {0, 1, 2, 3, 17, 66}) {
      for (const std::int32_t topk : {1, 2, 5}) check(random, experts, random_routes(random, m, topk));
    }
  }
}

// Scales in groups of all kinds, tails of n and k, odd numbers of k64 blocks; experts' tokens for each of a
// backend's kernels (8 and 60 on average).
TEST_P(FusedMoeTest, ScaleGroups) {
  using quant::WeightFormat;
  Random random(88);
  constexpr std::array kCases = {
      MatrixCase{WeightFormat::bf16, 77, 203},
      MatrixCase{WeightFormat::fp8, 77, 203},
      MatrixCase{WeightFormat::fp8, 72, 200, {.group_k = kWholeRow}},
      MatrixCase{WeightFormat::fp8, 130, 96, {.group_k = 64}},
      MatrixCase{WeightFormat::int8, 77, 203, {.zero_points = true}},
      MatrixCase{WeightFormat::int8, 72, 200, {.group_k = kWholeRow}},
      MatrixCase{WeightFormat::int8, 130, 96, {.group_k = 32, .zero_points = true}},
      MatrixCase{WeightFormat::int4, 78, 202},
      MatrixCase{WeightFormat::int4, 130, 260, {.group_k = 96, .zero_points = true}},
      MatrixCase{WeightFormat::int4, 72, 200, {.group_k = 64, .zero_points = true}},
      MatrixCase{WeightFormat::int4, 96, 130, {.group_k = 32, .zero_points = true, .act_order = true}},
      MatrixCase{WeightFormat::int4, 72, 200, {.group_k = kWholeRow, .zero_points = true}},
  };
  for (const MatrixCase& c : kCases) {
    SCOPED_TRACE(case_name(c));
    const Experts experts = random_experts(device(), random, c.format, c.n, c.k, c.grouping);
    for (const std::int64_t m : {20, 150}) check(random, experts, random_routes(random, m, 2));
  }
}

// Enough tokens for each of a backend's kernels; odd numbers of k64 blocks, groups of hidden values that end
// early, scale groups that do not go with those of FP8 inputs.
TEST_P(FusedMoeTest, QuantisedInputs) {
  using quant::WeightFormat;
  Random random(86);
  constexpr std::array kCases = {
      MatrixCase{WeightFormat::mxfp4, 160, 96},
      MatrixCase{WeightFormat::mxfp4, 64, 320},
      MatrixCase{WeightFormat::nvfp4, 160, 96},
      MatrixCase{WeightFormat::nvfp4, 64, 320},
      MatrixCase{WeightFormat::fp8, 160, 96},
      MatrixCase{WeightFormat::fp8, 64, 320},
      MatrixCase{WeightFormat::fp8, 77, 203, {.group_k = kWholeRow}},
      MatrixCase{WeightFormat::fp8, 160, 96, {.group_k = 64}},
  };
  for (const MatrixCase& c : kCases) {
    SCOPED_TRACE(case_name(c));
    Experts experts = random_experts(device(), random, c.format, c.n, c.k, c.grouping);
    for (PackedGroups* groups : {&experts.gate, &experts.up, &experts.down}) {
      groups->packed.shape.activations = quant::ActivationFormat::fp8;
    }
    for (const std::int64_t m : {1, 17, 66, 190}) check(random, experts, random_routes(random, m, 3));
  }
}

// Shared experts of one and two routed experts' size beside the routed ones, some tokens without any of
// these.
TEST_P(FusedMoeTest, SharedExpertsTakenAlong) {
  Random random(88);
  constexpr std::int64_t kN = 192;
  bool taken = false;
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    for (const std::int64_t k : {std::int64_t{160}, std::int64_t{1056}}) {
      const Experts experts = random_experts(device(), random, row.format, kN, k);
      for (const std::int64_t pieces : {1, 2}) {
        const Experts mlp = random_experts(device(), random, row.format, pieces * kN, k, {}, 1);
        for (const std::int64_t m : {1, 2, 4}) {
          Routes routes = random_routes(random, m, 2);
          if (m == 2) std::fill(routes.ids.begin(), routes.ids.end(), -1);
          taken = check_with_shared(random, experts, mlp, routes) || taken;
        }
      }
    }
  }
  EXPECT_EQ(taken, gpu());
  if (!taken) GTEST_SKIP() << "this backend computes shared experts by themselves";
}

TEST_P(FusedMoeTest, ReferenceBackend) {
  Random random(87);
  const auto reference = make_device({.kind = gpu() ? DeviceKind::cuda : DeviceKind::cpu,
                                      .num_threads = 2,
                                      .isa = GetParam().isa,
                                      .reference_moe = true});
  ASSERT_TRUE(reference.ok()) << reference.error().message;
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const bool grouped = row.group_k > 1;
    Experts experts = random_experts(device(), random, row.format, grouped ? 160 : 45, grouped ? 96 : 50);
    for (const std::int64_t m : {1, 20}) check_on(**reference, random, experts, random_routes(random, m, 3));
    experts.down.packed.shape.activations = quant::ActivationFormat::fp8;
    check_on(**reference, random, experts, random_routes(random, 9, 2));
  }
}

// Kernels of two devices whose blocks wait for each other, on one GPU at the same time.
TEST_P(FusedMoeTest, TwoDevicesOfOneGpu) {
  if (!gpu()) GTEST_SKIP() << "of the GPU's kernels";
  const auto other = make_device({.kind = DeviceKind::cuda, .num_threads = 2});
  ASSERT_TRUE(other.ok()) << other.error().message;
  const auto repeat = [](Device& device, std::uint64_t seed) {
    Random random(seed);
    const Experts experts = random_experts(device, random, quant::WeightFormat::mxfp4, 160, 96);
    for (int i = 0; i < 100; ++i) check_on(device, random, experts, random_routes(random, 1 + i % 5, 2));
  };
  const std::jthread beside([&] { repeat(**other, 89); });
  repeat(device(), 90);
}

TEST_P(FusedMoeTest, Fp8BlocksAtTheEdges) {
  Random random(81);
  const Experts experts = random_experts(device(), random, quant::WeightFormat::fp8, 200, 140);
  for (const std::int64_t m : {1, 9}) check(random, experts, random_routes(random, m, 2));
}

// What calibration gets: a row for every expert of every token, those of other ranks left alone.
TEST_P(FusedMoeTest, HiddenValues) {
  if (gpu()) GTEST_SKIP() << "calibration runs on the CPU";
  Random random(84);
  constexpr std::int64_t kN = 45;
  constexpr std::int64_t kK = 50;
  const Experts experts = random_experts(device(), random, quant::WeightFormat::bf16, kN, kK);
  for (const std::int64_t m : {1, 17}) {
    const Routes routes = random_routes(random, m, 3);
    const std::vector<float> x = activations(random, m * kK);
    const HostTensor x_tensor({m, kK}, x, 3);
    const HostTensor y_tensor({m, kK}, random.floats(m * kK), 5);
    const std::vector<float> before(static_cast<std::size_t>(m * 3 * kN), 77.0F);
    const HostTensor hidden({m * 3, kN}, before, 0);
    FusedMoeArgs args = make_args(experts, routes, x_tensor.view(), y_tensor.view(), nullptr);
    args.hidden = hidden.view();
    device().table().fused_moe(device().exec(), args);
    std::vector<Bounded> expected = exact(before);
    const std::vector<Bounded> xs = exact(x);
    for (std::size_t slot = 0; slot < routes.ids.size(); ++slot) {
      if (routes.ids[slot] < 0) continue;
      const auto e = static_cast<std::size_t>(routes.ids[slot]);
      const auto row = std::span(xs).subspan(slot / 3 * kK, kK);
      const auto gate = product(row, experts.gate.weights[e], 1, kN, kK, bf16_products());
      const auto up = product(row, experts.up.weights[e], 1, kN, kK, bf16_products());
      for (std::size_t j = 0; j < kN; ++j) expected[slot * kN + j] = gated(gate[j], up[j]);
    }
    EXPECT_TRUE(within_bounds(hidden.values(), expected));
  }
}

// Everybody at one expert: more tokens than any tile holds, and four experts without any.
TEST_P(FusedMoeTest, AllTokensAtOneExpert) {
  Random random(82);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const Experts experts = random_experts(device(), random, row.format, 64, 64);
    for (const std::int64_t m : {1, 12, 13, 100, 200}) {
      Routes routes{
          .topk = 1, .ids = std::vector<std::int32_t>(static_cast<std::size_t>(m), 3), .weights = {}};
      routes.weights = random.floats(m);
      check(random, experts, routes);
    }
  }
}

TEST_P(FusedMoeTest, NoLocalExpertLeavesYAlone) {
  Random random(83);
  const Experts experts = random_experts(device(), random, quant::WeightFormat::bf16, 24, 40);
  const Routes routes{
      .topk = 2, .ids = std::vector<std::int32_t>(6, -1), .weights = std::vector<float>(6, 1.0F)};
  const std::vector<float> x = activations(random, 3 * 40);
  const std::vector<float> y_before = random.floats(3 * 40);
  EXPECT_TRUE(same_bits(run(device(), experts, routes, x, y_before), y_before));
}

// What happens to a token does not depend on the other tokens, nor on the number of threads.
TEST_P(FusedMoeTest, SameForAnyNumberOfThreads) {
  Random random(84);
  const Experts experts = random_experts(device(), random, quant::WeightFormat::mxfp4, 96, 160);
  const Routes routes = random_routes(random, 30, 3);
  const std::vector<float> x = activations(random, 30 * 160);
  const std::vector<float> y_before = random.floats(30 * 160);
  const std::vector<float> first = run(device(1), experts, routes, x, y_before);
  for (const int threads : {2, 3}) {
    EXPECT_TRUE(same_bits(run(device(threads), experts, routes, x, y_before), first))
        << threads << " threads";
  }
}

TEST_P(FusedMoeTest, ATokenDoesNotFeelTheOthers) {
  using quant::WeightFormat;
  Random random(85);
  constexpr std::int64_t kN = 48;
  constexpr std::int64_t kK = 80;
  for (const auto format : {WeightFormat::nvfp4, WeightFormat::bf16, WeightFormat::fp8, WeightFormat::int4}) {
    SCOPED_TRACE(quant::format_name(format));
    const Experts experts = random_experts(device(), random, format, kN, kK);
    const Routes routes = random_routes(random, 64, 2);
    std::vector<float> x = activations(random, 64 * kK);
    std::fill_n(x.begin() + kK, kK, NAN);
    const std::vector<float> y_before = random.floats(64 * kK);
    const std::vector<float> batch = run(device(), experts, routes, x, y_before);
    for (const std::size_t token : {std::size_t{0}, std::size_t{2}, std::size_t{63}}) {
      const Routes alone{.topk = 2,
                         .ids = {routes.ids[token * 2], routes.ids[token * 2 + 1]},
                         .weights = {routes.weights[token * 2], routes.weights[token * 2 + 1]}};
      const auto x_row = std::span(x).subspan(token * kK, kK);
      const auto y_row = std::span(y_before).subspan(token * kK, kK);
      std::vector<Bounded> expected = expected_output(experts, alone, x_row, y_row, bf16_products());
      const std::vector<float> single = run(device(), experts, alone, x_row, y_row);
      EXPECT_TRUE(within_bounds(single, expected));
      for (std::size_t c = 0; c < expected.size(); ++c) expected[c].value = static_cast<double>(single[c]);
      EXPECT_TRUE(within_bounds(std::span(batch).subspan(token * kK, kK), expected)) << "token " << token;
    }
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
