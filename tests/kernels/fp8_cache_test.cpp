// The FP8 cache: what is written reads back within E4M3's and E5M2's precision, entry by entry, and
// attention over it is attention over the values it holds.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/paged_cache.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

constexpr std::int32_t kPageSize = 8;
constexpr std::int32_t kPages = 12;
constexpr std::int64_t kSlots = kPages * kPageSize;
constexpr std::int64_t kHeads = 5;

// A cache of one sequence whose pages lie in descending order.
struct Fp8Cache {
  Fp8Cache(DType dtype, std::int64_t d_latent, std::int64_t d_rope)
      : bytes(static_cast<std::size_t>(kSlots * cache_width(dtype, d_latent, d_rope) * dtype_bits(dtype) / 8),
              std::byte{0xFF}),
        view(make_view(bytes.data(), dtype, {kSlots, cache_width(dtype, d_latent, d_rope)})) {
    for (std::int32_t page = 0; page < kPages; ++page) page_table.push_back(kPages - 1 - page);
  }
  [[nodiscard]] std::int32_t slot(std::int32_t i) const {
    return page_table[static_cast<std::size_t>(i / kPageSize)] * kPageSize + i % kPageSize;
  }

  std::vector<std::byte> bytes;
  std::vector<std::int32_t> page_table;
  TensorView view;
};

class Fp8CacheTest : public KernelTest {
 protected:
  void write(Fp8Cache& cache, const HostTensor& latent, const HostTensor& k_pe) {
    std::vector<std::int32_t> slots;
    for (std::int32_t i = 0; i < latent.view().dim(0); ++i) slots.push_back(cache.slot(i));
    device().table().cache_write(
        device().exec(),
        {.latent = latent.view(), .k_pe = k_pe.view(), .slot_mapping = slots.data(), .cache = cache.view});
  }

  void gather(Fp8Cache& cache, const HostTensor& latent, const HostTensor& k_pe) {
    device().table().cache_gather(device().exec(), {.cache = cache.view,
                                                    .page_table = cache.page_table.data(),
                                                    .page_size = kPageSize,
                                                    .length = static_cast<std::int32_t>(latent.view().dim(0)),
                                                    .latent = latent.view(),
                                                    .k_pe = k_pe.view()});
  }
};
NIB_KERNEL_TESTS(Fp8CacheTest);

TEST_P(Fp8CacheTest, ReadsBackWithinItsPrecision) {
  constexpr std::int32_t kLength = 90;
  Random random(60);
  for (const DType dtype : {DType::f8_e4m3, DType::f8_e5m2}) {
    // Half a unit in the last place, and half the smallest subnormal where values are small.
    const float relative = dtype == DType::f8_e4m3 ? 0x1p-4F : 0x1p-3F;
    const float absolute = dtype == DType::f8_e4m3 ? 0x1p-10F / 448.0F : 0x1p-17F / 57344.0F;
    for (const std::int64_t d_latent : {1, 37, 64}) {
      Fp8Cache cache(dtype, d_latent, 6);
      HostTensor latent({kLength, d_latent}, random.floats(kLength * d_latent, -3.0F, 3.0F), 3);
      const HostTensor k_pe({kLength, 6}, random.floats(kLength * 6), 1);
      // Tokens of very different size: each has a scale of its own.
      for (std::int64_t c = 0; c < d_latent; ++c) {
        latent.row(7)[c] *= 1e6F;
        latent.row(8)[c] *= 1e-6F;
        latent.row(9)[c] = 0.0F;
      }
      write(cache, latent, k_pe);
      const HostTensor read({kLength, d_latent}, 2);
      const HostTensor read_pe({kLength, 6}, 4);
      gather(cache, read, read_pe);
      for (std::int64_t i = 0; i < kLength; ++i) {
        float amax = 0.0F;
        for (std::int64_t c = 0; c < d_latent; ++c) amax = std::max(amax, std::fabs(latent.row(i)[c]));
        for (std::int64_t c = 0; c < d_latent; ++c) {
          const float x = latent.row(i)[c];
          EXPECT_NEAR(read.row(i)[c], x, std::fabs(x) * relative * 1.0001F + amax * absolute)
              << i << ", " << c;
        }
        for (std::int64_t c = 0; c < 6; ++c) {
          EXPECT_EQ(read_pe.row(i)[c], quant::bf16_to_float(quant::float_to_bf16(k_pe.row(i)[c])));
        }
      }
    }
  }
}

TEST_P(Fp8CacheTest, NanStaysNan) {
  Fp8Cache cache(DType::f8_e4m3, 16, 2);
  HostTensor latent({2, 16}, 0);
  HostTensor k_pe({2, 2}, 0);
  for (std::int64_t c = 0; c < 16; ++c) latent.row(0)[c] = latent.row(1)[c] = 1.0F;
  for (std::int64_t c = 0; c < 2; ++c) k_pe.row(0)[c] = k_pe.row(1)[c] = 1.0F;
  latent.row(1)[3] = std::numeric_limits<float>::infinity();
  write(cache, latent, k_pe);
  const HostTensor read({2, 16}, 0);
  const HostTensor read_pe({2, 2}, 0);
  gather(cache, read, read_pe);
  EXPECT_EQ(read.row(0)[0], 1.0F);
  EXPECT_TRUE(std::isnan(read.row(1)[0]));
}

TEST_P(Fp8CacheTest, AttentionSeesTheValuesItHolds) {
  constexpr std::int32_t kLength = 83;
  Random random(61);
  for (const DType dtype : {DType::f8_e4m3, DType::f8_e5m2}) {
    for (const std::int64_t d_latent : {33, 64, 512}) {
      const bool real_size = d_latent == 512;  // a GPU has a kernel for it that rounds to bf16
      const std::int64_t d_rope = real_size ? 64 : 8;
      const std::int64_t lead = real_size ? HostTensor::kAligned : HostTensor::kUnaligned;
      const double tolerance = real_size && gpu() ? 4e-3 : 1e-6;
      Fp8Cache cache(dtype, d_latent, d_rope);
      write(cache, HostTensor({kLength, d_latent}, random.floats(kLength * d_latent), 1),
            HostTensor({kLength, d_rope}, random.floats(kLength * d_rope), 1));
      const HostTensor latent({kLength, d_latent}, 0);
      const HostTensor k_pe({kLength, d_rope}, 0);
      gather(cache, latent, k_pe);
      Fp8Cache plain(DType::f32, d_latent, d_rope);
      write(plain, latent, k_pe);

      const HostTensor q_latent({3, kHeads, d_latent}, random.floats(3 * kHeads * d_latent), 0, lead);
      const HostTensor q_pe({3, kHeads, d_rope}, random.floats(3 * kHeads * d_rope), 0, lead);
      const std::vector<std::int32_t> cu_seqlens{0, 3};
      const std::vector<std::int32_t> seq_lens{kLength};
      const auto attend = [&](Fp8Cache& over) {
        const HostTensor o({3, kHeads, d_latent}, 0, lead);
        device().table().mla_absorbed(device().exec(), {.q_latent = q_latent.view(),
                                                        .q_pe = q_pe.view(),
                                                        .cache = over.view,
                                                        .ragged = {.num_seqs = 1,
                                                                   .cu_seqlens_q = cu_seqlens.data(),
                                                                   .seq_lens = seq_lens.data(),
                                                                   .page_tables = over.page_table.data(),
                                                                   .max_pages = kPages,
                                                                   .page_size = kPageSize},
                                                        .scale = 0.2F,
                                                        .o = o.view()});
        return o.values();
      };
      const std::vector<float> actual = attend(cache);
      const std::vector<float> expected = attend(plain);
      for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance);
    }
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
