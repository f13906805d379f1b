// Linear layers whose inputs are FP8: products of FP8 and of bf16, and inputs that the product quantises
// itself.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quant/activations.h"
#include "quant/float8.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/matrices.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

class LinearFp8Test : public KernelTest {};
NIB_KERNEL_TESTS(LinearFp8Test);

// m rows of k inputs that have gone through FP8.
std::vector<float> fp8_activations(Random& random, std::int64_t m, std::int64_t k) {
  std::vector<float> x = activations(random, m * k);
  for (std::int64_t i = 0; i < m; ++i) {
    quant::quantize_dequantize(quant::ActivationFormat::fp8, x.data() + i * k, k, x.data() + i * k);
  }
  return x;
}

// before + products.
std::vector<Bounded> added_to(std::span<const float> before, std::vector<Bounded> products) {
  for (std::size_t i = 0; i < products.size(); ++i) {
    products[i].value += static_cast<double>(before[i]);
    products[i].bound += 2.0 * kEpsF32 * (std::abs(products[i].value) + std::abs(before[i]));
  }
  return products;
}

std::vector<Bounded> gated_all(const std::vector<Bounded>& gate, const std::vector<Bounded>& up) {
  std::vector<Bounded> all;
  for (std::size_t i = 0; i < gate.size(); ++i) all.push_back(gated(gate[i], up[i]));
  return all;
}

// FP8 activations may be multiplied as FP8 by FP8 weights, with scales of blocks, rows and other groups.
TEST_P(LinearFp8Test, Activations) {
  Random random(22);
  constexpr std::array kCases = {
      MatrixCase{quant::WeightFormat::fp8, 1, 1},
      MatrixCase{quant::WeightFormat::fp8, 17, 72},
      MatrixCase{quant::WeightFormat::fp8, 130, 200},
      MatrixCase{quant::WeightFormat::fp8, 33, 200, {.group_k = 200}},
      MatrixCase{quant::WeightFormat::fp8, 24, 640, {.group_k = 256}},
      MatrixCase{quant::WeightFormat::fp8, 40, 320, {.group_k = 64}},
      MatrixCase{quant::WeightFormat::fp8, 184, 256},
      MatrixCase{quant::WeightFormat::fp8, 272, 1100},
      MatrixCase{quant::WeightFormat::mxfp4, 33, 160},
      MatrixCase{quant::WeightFormat::mxfp4, 272, 1120},
  };
  for (const MatrixCase& c : kCases) {
    SCOPED_TRACE(case_name(c));
    PackedGroups gate = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    PackedGroups up = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    gate.packed.shape.activations = quant::ActivationFormat::fp8;
    up.packed.shape.activations = quant::ActivationFormat::fp8;
    for (const std::int64_t m : {1, 9, 65, 130, 257}) {
      SCOPED_TRACE(m);
      const std::vector<float> x_values = fp8_activations(random, m, c.k);
      const HostTensor x({m, c.k}, x_values, 5);
      const std::vector<float> before = random.floats(m * c.n);
      const HostTensor sums({m, c.n}, before, 3);
      const HostTensor y({m, c.n}, 2);
      device().table().linear(device().exec(),
                              {.x = x.view(), .w = gate.packed, .y = sums.view(), .accumulate = true});
      device().table().gated_linear(device().exec(),
                                    {.x = x.view(), .gate = gate.packed, .up = up.packed, .y = y.view()});
      const auto g = product(exact(x_values), gate.weights[0], m, c.n, c.k, bf16_products());
      const auto u = product(exact(x_values), up.weights[0], m, c.n, c.k, bf16_products());
      EXPECT_TRUE(within_bounds(sums.values(), added_to(before, g)));
      EXPECT_TRUE(within_bounds(y.values(), gated_all(g, u)));
      EXPECT_TRUE(sums.guards_intact() && y.guards_intact());
    }
    if (HasFailure()) return;
  }
}

std::vector<float> rows_of(std::span<const float> values, std::span<const std::int64_t> rows,
                           std::int64_t width) {
  std::vector<float> taken;
  for (const std::int64_t row : rows) {
    const auto of_row =
        values.subspan(static_cast<std::size_t>(row * width), static_cast<std::size_t>(width));
    taken.insert(taken.end(), of_row.begin(), of_row.end());
  }
  return taken;
}

// A GPU's tiles grow with the size of the product; rows at their edges are checked. An odd number of blocks
// of k.
TEST_P(LinearFp8Test, ManyTiles) {
  if (!gpu()) GTEST_SKIP() << "tiles of one size";
  Random random(27);
  struct Size {
    std::int64_t m;
    std::int64_t n;
  };
  constexpr std::int64_t kK = 192;
  for (const Size size : {Size{257, 3450}, Size{385, 2940}, Size{513, 3450}, Size{769, 3450}}) {
    SCOPED_TRACE(fmt::format("{} x {}", size.m, size.n));
    PackedGroups gate = random_groups(device(), random, quant::WeightFormat::fp8, 1, size.n, kK);
    PackedGroups up = random_groups(device(), random, quant::WeightFormat::fp8, 1, size.n, kK);
    gate.packed.shape.activations = quant::ActivationFormat::fp8;
    up.packed.shape.activations = quant::ActivationFormat::fp8;
    const std::vector<float> x_values = fp8_activations(random, size.m, kK);
    const HostTensor x({size.m, kK}, x_values);
    const std::vector<float> before = random.floats(size.m * size.n);
    const HostTensor sums({size.m, size.n}, before, 3);
    const HostTensor y({size.m, size.n}, 2);
    device().table().linear(device().exec(),
                            {.x = x.view(), .w = gate.packed, .y = sums.view(), .accumulate = true});
    device().table().gated_linear(device().exec(),
                                  {.x = x.view(), .gate = gate.packed, .up = up.packed, .y = y.view()});
    const std::vector<std::int64_t> rows = {0, 63, 64, 127, 128, 191, 192, 255, 256, size.m - 2, size.m - 1};
    const auto num_rows = static_cast<std::int64_t>(rows.size());
    const auto x_rows = exact(rows_of(x_values, rows, kK));
    const auto g = product(x_rows, gate.weights[0], num_rows, size.n, kK, bf16_products());
    const auto u = product(x_rows, up.weights[0], num_rows, size.n, kK, bf16_products());
    EXPECT_TRUE(
        within_bounds(rows_of(sums.values(), rows, size.n), added_to(rows_of(before, rows, size.n), g)));
    EXPECT_TRUE(within_bounds(rows_of(y.values(), rows, size.n), gated_all(g, u)));
    EXPECT_TRUE(sums.guards_intact() && y.guards_intact());
  }
}

// FP8, [k, k], with ones on the diagonal and a scale of 1 per row.
std::unique_ptr<StoredMatrix> identity_matrix(std::int64_t k) {
  Random random(23);
  auto m = random_matrix(random, quant::WeightFormat::fp8, k, k, {.group_k = k});
  std::fill(m->codes.begin(), m->codes.end(), std::byte{0});
  m->scales.clear();
  for (std::int64_t i = 0; i < k; ++i) {
    m->codes[static_cast<std::size_t>(i * k + i)] = std::byte{0x38};
    m->scales.insert(m->scales.end(), {std::byte{0x80}, std::byte{0x3F}});
  }
  m->view.scale_dtype = DType::bf16;
  m->view.scales = m->scales.data();
  return m;
}

// Inputs that are FP8 codes times a scale per 128 must not be rounded once more, whether scales are
// quantize_activation's or powers of two.
TEST_P(LinearFp8Test, ActivationsComeThroughExactly) {
  if (bf16_products() && !gpu()) GTEST_SKIP() << "this tier rounds activations to bf16";
  constexpr std::int64_t kM = 300;  // more than a GPU multiplies in bf16
  constexpr std::int64_t kK = 320;
  Random random(24);
  std::vector<std::unique_ptr<StoredMatrix>> sources;
  sources.push_back(identity_matrix(kK));
  Weight w = pack(device(), sources);
  w.shape.activations = quant::ActivationFormat::fp8;
  std::vector<float> x_values = fp8_activations(random, kM / 2, kK);
  for (std::int64_t i = kM / 2 * kK; i < kM * kK; ++i) {
    const std::int64_t group = i / kK * 3 + i % kK / 128;
    const auto code = static_cast<std::uint8_t>(random.below(256) & 0xFB);  // never NaN
    x_values.push_back(std::ldexp(quant::e4m3_to_float(code), static_cast<int>(group * 37 % 81) - 40));
  }
  const HostTensor x({kM, kK}, x_values);
  const HostTensor y({kM, kK});
  device().table().linear(device().exec(), {.x = x.view(), .w = w, .y = y.view()});
  const std::vector<float> made = y.values();
  for (std::size_t i = 0; i < x_values.size(); ++i) ASSERT_EQ(made[i], x_values[i]) << i;
}

// Row i of [n, k] is 1 at column i * (k / n) and 0 elsewhere: int8 with act-order, or bf16.
std::unique_ptr<StoredMatrix> selection_matrix(Random& random, std::int64_t n, std::int64_t k,
                                               bool act_order) {
  const quant::WeightFormat format = act_order ? quant::WeightFormat::int8 : quant::WeightFormat::bf16;
  auto m = random_matrix(random, format, n, k, {.group_k = act_order ? 64 : 0, .act_order = act_order});
  const auto width = static_cast<std::int64_t>(act_order ? 1 : 2);
  std::fill(m->codes.begin(), m->codes.end(), std::byte{0});
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>((i * k + i * (k / n)) * width);
    m->codes[at] = act_order ? std::byte{1} : std::byte{0x80};
    if (!act_order) m->codes[at + 1] = std::byte{0x3F};
  }
  if (!act_order) return m;
  m->scales.clear();
  for (std::int64_t i = 0; i < n * m->view.num_groups(); ++i)
    m->scales.insert(m->scales.end(), {std::byte{0x80}, std::byte{0x3F}});
  m->view.scale_dtype = DType::bf16;
  m->view.scales = m->scales.data();
  return m;
}

// Every step-th of the inputs through FP8, with the error that a product of bf16 makes of it.
std::vector<Bounded> selected_inputs(std::vector<float> x, std::int64_t m, std::int64_t k,
                                     std::int64_t step) {
  std::vector<Bounded> selected;
  for (std::int64_t i = 0; i < m; ++i) {
    float* row = x.data() + i * k;
    quant::quantize_dequantize(quant::ActivationFormat::fp8, row, k, row);
    for (std::int64_t kk = 0; kk < k; kk += step) {
      const auto value = static_cast<double>(row[kk]);
      selected.push_back({.value = value, .bound = std::abs(value) * 0x1p-8});
    }
  }
  return selected;
}

// A device that quantises inputs itself gives what quantize_activation would have made of them, which is off
// by up to 2^-4: products of few and of many tokens, with k that ends within a group, is an odd number of
// blocks, or is split between blocks.
TEST_P(LinearFp8Test, InputsAreQuantizedOnTheirWay) {
  if (!device().table().quantizes_inputs(quant::ActivationFormat::fp8)) GTEST_SKIP() << "not by this device";
  Random random(29);
  struct Size {
    std::int64_t n;
    std::int64_t k;
  };
  for (const Size size : {Size{40, 40}, Size{64, 64}, Size{192, 192}, Size{320, 320}, Size{32, 7232}}) {
    std::vector<std::vector<std::unique_ptr<StoredMatrix>>> all(2);
    all[0].push_back(selection_matrix(random, size.n, size.k, false));
    all[1].push_back(selection_matrix(random, size.n, size.k, true));
    if (size.n == size.k) all.emplace_back().push_back(identity_matrix(size.k));
    for (const auto& sources : all) {
      Weight w = pack(device(), sources);
      w.shape.activations = quant::ActivationFormat::fp8;
      for (const std::int64_t m : {1, 2, 3, 8, 9, 70}) {
        SCOPED_TRACE(fmt::format("{} k={} m={}", quant::format_name(w.shape.format), size.k, m));
        const std::vector<float> given = activations(random, m * size.k);
        const std::vector<Bounded> expected = selected_inputs(given, m, size.k, size.k / size.n);
        const HostTensor x({m, size.k}, given, 5);
        const HostTensor y({m, size.n}, 2);
        const HostTensor first({m, size.n});
        const HostTensor second({m, size.n});
        const HostTensor both({m, size.n});
        device().table().linear(device().exec(), {.x = x.view(), .w = w, .y = y.view()});
        device().table().linear_pair(
            device().exec(),
            {.x = x.view(), .first = w, .first_y = first.view(), .second = w, .second_y = second.view()});
        device().table().gated_linear(device().exec(), {.x = x.view(), .gate = w, .up = w, .y = both.view()});
        EXPECT_TRUE(within_bounds(y.values(), expected));
        EXPECT_TRUE(within_bounds(first.values(), expected));
        EXPECT_TRUE(within_bounds(second.values(), expected));
        EXPECT_TRUE(within_bounds(both.values(), gated_all(expected, expected)));
        EXPECT_TRUE(y.guards_intact());
      }
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
