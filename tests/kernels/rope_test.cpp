#include <gtest/gtest.h>

#include "core/check.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

constexpr std::int64_t kMaxPositions = 50;

class RopeTest : public KernelTest {
 protected:
  // Angles of the plain rotary embedding: position * 10000^(-2j / d).
  static std::vector<float> table(std::int64_t d_rope, double (*function)(double)) {
    std::vector<float> values;
    for (std::int64_t p = 0; p < kMaxPositions; ++p) {
      for (std::int64_t j = 0; j < d_rope / 2; ++j) {
        const double angle = static_cast<double>(p) *
                             std::pow(10000.0, -2.0 * static_cast<double>(j) / static_cast<double>(d_rope));
        values.push_back(static_cast<float>(function(angle)));
      }
    }
    return values;
  }
};
NIB_KERNEL_TESTS(RopeTest);

double cosine(double x) { return std::cos(x); }
double sine(double x) { return std::sin(x); }

TEST_P(RopeTest, RotatesInterleavedPairs) {
  Random random(40);
  for (const std::int64_t d : {2, 6, 16, 64, 70}) {
    for (const std::int64_t heads : {0, 1, 5}) {  // 0: a view of rank 2
      for (const std::int64_t m : {0, 1, 4, 37, 70}) {
        // Some tensors also as a device has its own.
        const bool aligned = m % 2 == 0;
        const std::int64_t lead = aligned ? HostTensor::kAligned : HostTensor::kUnaligned;
        const HostTensor cos({kMaxPositions, d / 2}, table(d, cosine), aligned ? 0 : 1, lead);
        const HostTensor sin({kMaxPositions, d / 2}, table(d, sine), aligned ? 0 : 1, lead);
        const std::int64_t row = std::max<std::int64_t>(heads, 1) * d;
        const std::vector<float> before = activations(random, m * row);
        const std::int64_t gap = aligned ? 4 : 7;
        const HostTensor x =
            heads == 0 ? HostTensor({m, d}, before, gap, lead) : HostTensor({m, heads, d}, before, gap, lead);
        std::vector<std::int32_t> positions;
        for (std::int64_t i = 0; i < m; ++i)
          positions.push_back(static_cast<std::int32_t>(random.below(kMaxPositions)));
        device().table().rope(
            device().exec(),
            {.x = x.view(), .positions = positions.data(), .cos = cos.view(), .sin = sin.view()});
        std::vector<Bounded> expected;
        for (std::size_t at = 0; at < before.size(); at += 2) {
          const std::int64_t i = static_cast<std::int64_t>(at) / row;
          const std::int64_t j = static_cast<std::int64_t>(at) % d / 2;
          const double c = static_cast<double>(cos.row(positions[static_cast<std::size_t>(i)])[j]);
          const double s = static_cast<double>(sin.row(positions[static_cast<std::size_t>(i)])[j]);
          const double even = static_cast<double>(before[at]);
          const double odd = static_cast<double>(before[at + 1]);
          const double bound = 4.0 * kEpsF32 * (std::abs(even) + std::abs(odd));
          expected.push_back({.value = even * c - odd * s, .bound = bound});
          expected.push_back({.value = odd * c + even * s, .bound = bound});
        }
        EXPECT_TRUE(within_bounds(x.values(), expected)) << "d=" << d << " heads=" << heads << " m=" << m;
        EXPECT_TRUE(x.guards_intact()) << "d=" << d << " heads=" << heads << " m=" << m;
      }
    }
  }
}

// The rope part at the end of each head, as in a query projection's output.
TEST_P(RopeTest, ColumnsOfAWiderTensor) {
  Random random(41);
  constexpr std::int64_t kHeads = 3;
  constexpr std::int64_t kNope = 10;
  constexpr std::int64_t kRope = 8;
  const HostTensor cos({kMaxPositions, kRope / 2}, table(kRope, cosine));
  const HostTensor sin({kMaxPositions, kRope / 2}, table(kRope, sine));
  const std::vector<float> before = random.floats(2 * kHeads * (kNope + kRope));
  const HostTensor q({2, kHeads, kNope + kRope}, before);
  const std::vector<std::int32_t> positions{7, 49};
  device().table().rope(device().exec(), {.x = q.view().columns(kNope, kNope + kRope),
                                          .positions = positions.data(),
                                          .cos = cos.view(),
                                          .sin = sin.view()});
  const std::vector<float> after = q.values();
  for (std::size_t i = 0; i < before.size(); ++i) {
    const auto column = static_cast<std::int64_t>(i) % (kNope + kRope);
    if (column < kNope) {
      EXPECT_EQ(after[i], before[i]) << i;
    } else {
      EXPECT_NE(after[i], before[i]) << i;
    }
  }
}

TEST_P(RopeTest, PositionsBeyondTheTableAreABug) {
  if (gpu()) GTEST_SKIP() << "positions are not read on the host";
  const HostTensor cos({kMaxPositions, 2}, table(4, cosine));
  const HostTensor sin({kMaxPositions, 2}, table(4, sine));
  const HostTensor x({1, 4}, std::vector<float>(4, 1.0F));
  for (const std::int32_t position : {-1, static_cast<std::int32_t>(kMaxPositions)}) {
    EXPECT_THROW(
        device().table().rope(device().exec(),
                              {.x = x.view(), .positions = &position, .cos = cos.view(), .sin = sin.view()}),
        InternalError);
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
