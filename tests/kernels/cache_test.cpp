// cache_write and cache_gather.
#include <gtest/gtest.h>

#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/paged_cache.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

class CacheTest : public KernelTest {};
NIB_KERNEL_TESTS(CacheTest);

constexpr std::int64_t kLatent = 37;
constexpr std::int64_t kRope = 6;

TEST_P(CacheTest, WriteTouchesItsSlotsOnly) {
  Random random(50);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t m : {0, 1, 9}) {
      PagedCache cache(dtype, 5, 4, kLatent + kRope);
      PagedCache expected = cache;
      std::vector<std::int32_t> slots{7, 19, 0, 3, 12, 1, 18, 10, 5};
      slots.resize(static_cast<std::size_t>(m));
      const HostTensor latent({m, kLatent}, activations(random, m * kLatent), 3);
      const HostTensor k_pe({m, kRope}, activations(random, m * kRope), 5);
      device().table().cache_write(device().exec(), {.latent = latent.view(),
                                                     .k_pe = k_pe.view(),
                                                     .slot_mapping = slots.data(),
                                                     .cache = cache.view()});
      for (std::int64_t i = 0; i < m; ++i) {
        const std::int64_t slot = slots[static_cast<std::size_t>(i)];
        for (std::int64_t c = 0; c < kLatent; ++c) expected.set(slot, c, latent.row(i)[c]);
        for (std::int64_t c = 0; c < kRope; ++c) expected.set(slot, kLatent + c, k_pe.row(i)[c]);
      }
      EXPECT_TRUE(same_bits(cache.floats, expected.floats)) << "m=" << m;
      EXPECT_EQ(cache.halves, expected.halves) << "m=" << m;
    }
  }
}

// Entries made of kv_a_proj's output equal those of its parts, normed and rotated one by one.
TEST_P(CacheTest, WriteNormsAndRotates) {
  constexpr std::int64_t kM = 5;
  constexpr std::int64_t kPositions = 11;
  Random random(52);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::vector<float> weight = random.floats(kLatent, 0.1F, 2.0F);
    const std::vector<float> latents = activations(random, kM * kLatent);
    const std::vector<float> k_pes = activations(random, kM * kRope);
    const std::vector<std::int32_t> slots{7, 19, 0, 3, 12};
    const std::vector<std::int32_t> positions{0, 10, 4, 4, 1};
    const HostTensor cos({kPositions, kRope / 2}, random.floats(kPositions * kRope / 2), 1);
    const HostTensor sin({kPositions, kRope / 2}, random.floats(kPositions * kRope / 2), 2);
    const HostTensor latent({kM, kLatent}, latents, 3);
    const HostTensor k_pe({kM, kRope}, k_pes, 5);
    PagedCache cache(dtype, 5, 4, kLatent + kRope);
    const CacheEntryPrologue prologue{.norm_weight = weight.data(),
                                      .norm_eps = 1e-6F,
                                      .positions = positions.data(),
                                      .cos = cos.view(),
                                      .sin = sin.view()};
    device().table().cache_write(device().exec(), {.latent = latent.view(),
                                                   .k_pe = k_pe.view(),
                                                   .slot_mapping = slots.data(),
                                                   .cache = cache.view(),
                                                   .prologue = &prologue});
    EXPECT_TRUE(latent.guards_intact() && k_pe.guards_intact());

    const double rounding = dtype == DType::bf16 ? 0x1p-8 : 0.0;
    std::vector<float> found;
    std::vector<Bounded> expected;
    for (std::int64_t i = 0; i < kM; ++i) {
      const auto row = static_cast<std::size_t>(i);
      for (std::int64_t c = 0; c < kLatent + kRope; ++c) found.push_back(cache.get(slots[row], c));
      double squares = 0.0;
      const std::span<const float> x = std::span(latents).subspan(row * kLatent, kLatent);
      for (const float v : x) squares += std::pow(static_cast<double>(v), 2);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(kLatent) + 1e-6);
      for (std::size_t c = 0; c < kLatent; ++c) {
        const double value = static_cast<double>(x[c]) * scale * static_cast<double>(weight[c]);
        expected.push_back({value, std::abs(value) * (sum_rounding(kLatent) + rounding)});
      }
      for (std::int64_t c = 0; c < kRope; ++c) {
        const float* pair = k_pes.data() + i * kRope + c / 2 * 2;
        const auto even = static_cast<double>(pair[0]);
        const auto odd = static_cast<double>(pair[1]);
        const auto co = static_cast<double>(cos.row(positions[row])[c / 2]);
        const auto si = static_cast<double>(sin.row(positions[row])[c / 2]);
        const double value = c % 2 == 0 ? even * co - odd * si : odd * co + even * si;
        expected.push_back(
            {value, 4.0 * kEpsF32 * (std::abs(even) + std::abs(odd)) + std::abs(value) * rounding});
      }
    }
    EXPECT_TRUE(within_bounds(found, expected)) << dtype_name(dtype);
  }
}

TEST_P(CacheTest, GatherFollowsThePages) {
  Random random(51);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int32_t page_size : {1, 3, 16}) {
      for (const std::int32_t length : {0, 1, 16, 47}) {
        const PageTables pages(random, std::span(&length, 1), page_size);
        PagedCache cache(dtype, std::max(1, pages.num_pages), page_size, kLatent + kRope);
        std::vector<float> latents;
        std::vector<float> k_pes;
        for (std::int32_t i = 0; i < length; ++i) {
          for (std::int64_t c = 0; c < kLatent + kRope; ++c) {
            const float value = cache.set(pages.slot(0, i), c, random.uniform(-4.0F, 4.0F));
            (c < kLatent ? latents : k_pes).push_back(value);
          }
        }
        const HostTensor latent({length, kLatent}, 3);
        const HostTensor k_pe({length, kRope}, 1);
        device().table().cache_gather(device().exec(), {.cache = cache.view(),
                                                        .page_table = pages.entries.data(),
                                                        .page_size = page_size,
                                                        .length = length,
                                                        .latent = latent.view(),
                                                        .k_pe = k_pe.view()});
        EXPECT_TRUE(same_bits(latent.values(), latents)) << "page_size=" << page_size << " length=" << length;
        EXPECT_TRUE(same_bits(k_pe.values(), k_pes)) << "page_size=" << page_size << " length=" << length;
        EXPECT_TRUE(latent.guards_intact() && k_pe.guards_intact());
      }
    }
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
