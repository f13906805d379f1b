// mla_absorbed and mha against double precision, with poison wherever they must not look.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/paged_cache.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

class AttentionTest : public KernelTest {};
NIB_KERNEL_TESTS(AttentionTest);

// softmax(scores) weighted sum of values[j][c]; scores carry their bounds. With bf16 operands
// probabilities and values are rounded as well.
std::vector<Bounded> attend(const std::vector<Bounded>& scores, const std::vector<std::vector<float>>& values,
                            bool bf16_products) {
  double top = -std::numeric_limits<double>::infinity();
  double score_bound = 0.0;
  for (const Bounded& s : scores) {
    top = std::max(top, s.value);
    score_bound = std::max(score_bound, s.bound);
  }
  double sum = 0.0;
  std::vector<double> p;
  for (const Bounded& s : scores) {
    p.push_back(std::exp(s.value - top));
    sum += p.back();
  }
  const auto count = static_cast<std::int64_t>(scores.size());
  // Each p is off by its score's error, exp's and the subtraction's; so is their sum.
  const double relative = 2.0 * (score_bound + kExpError + kEpsF32 * (std::abs(top) + 100.0)) +
                          sum_rounding(count) + (bf16_products ? 2.01 * kEpsBf16 : 0.0);
  std::vector<Bounded> o(values[0].size());
  for (std::size_t c = 0; c < o.size(); ++c) {
    double magnitude = 0.0;
    for (std::size_t j = 0; j < p.size(); ++j) {
      const double term = p[j] / sum * static_cast<double>(values[j][c]);
      o[c].value += term;
      magnitude += std::abs(term);
    }
    o[c].bound = magnitude * relative + 0x1p-120;
  }
  return o;
}

Bounded scaled_score(const std::vector<float>& q, const std::vector<float>& key, float scale,
                     bool bf16_products) {
  Bounded s = dot(exact(q), key, bf16_products);
  s.value *= static_cast<double>(scale);
  s.bound = std::abs(static_cast<double>(scale)) * s.bound + 2.0 * kEpsF32 * std::abs(s.value);
  return s;
}

std::vector<float> slice(const float* begin, std::int64_t count) { return {begin, begin + count}; }

std::vector<float> joined(std::vector<float> a, const std::vector<float>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct AbsorbedCase {
  std::vector<std::int32_t> q_lens;
  std::vector<std::int32_t> seq_lens;
  std::int64_t heads;
  std::int64_t d_latent;
  std::int64_t d_rope;
  std::int32_t page_size;
  DType dtype;
};

// Everything one call needs, and what must come out of it.
struct AbsorbedRun {
  // `aligned`: tensors as a device has them, which its fastest kernels want.
  AbsorbedRun(Random& random, const AbsorbedCase& c, bool aligned = false)
      : width(c.d_latent + c.d_rope),
        num_rows(std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0})),
        pages(random, c.seq_lens, c.page_size),
        cache(c.dtype, pages.num_pages + 1, c.page_size, width, aligned ? 0 : 2),
        q_latent({num_rows, c.heads, c.d_latent}, random.floats(num_rows * c.heads * c.d_latent),
                 aligned ? 0 : 3, lead(aligned)),
        q_pe({num_rows, c.heads, c.d_rope}, random.floats(num_rows * c.heads * c.d_rope, -2.0F, 2.0F),
             aligned ? 0 : 5, lead(aligned)),
        o({num_rows, c.heads, c.d_latent}, aligned ? 0 : 2, lead(aligned)) {
    for (const std::int32_t len : c.q_lens) cu_seqlens.push_back(cu_seqlens.back() + len);
    for (std::size_t s = 0; s < c.seq_lens.size(); ++s) {
      auto& sequence = entries.emplace_back();
      for (std::int32_t j = 0; j < c.seq_lens[s]; ++j) {
        auto& entry = sequence.emplace_back();
        for (std::int64_t i = 0; i < width; ++i) {
          entry.push_back(
              cache.set(pages.slot(static_cast<std::int64_t>(s), j), i, random.uniform(-1.0F, 1.0F)));
        }
      }
    }
  }

  static std::int64_t lead(bool aligned) { return aligned ? HostTensor::kAligned : HostTensor::kUnaligned; }

  MlaAbsorbedArgs args(const AbsorbedCase& c, float scale) {
    return {.q_latent = q_latent.view(),
            .q_pe = q_pe.view(),
            .cache = cache.view(),
            .ragged = {.num_seqs = static_cast<std::int32_t>(c.q_lens.size()),
                       .cu_seqlens_q = cu_seqlens.data(),
                       .seq_lens = c.seq_lens.data(),
                       .page_tables = pages.entries.data(),
                       .max_pages = pages.max_pages,
                       .page_size = c.page_size},
            .scale = scale,
            .o = o.view()};
  }

  [[nodiscard]] std::vector<Bounded> expected(const AbsorbedCase& c, float scale, bool bf16_products) const {
    std::vector<Bounded> result;
    for (std::size_t s = 0; s < c.q_lens.size(); ++s) {
      for (std::int32_t i = 0; i < c.q_lens[s]; ++i) {
        const std::int64_t row = cu_seqlens[s] + i;
        const std::int64_t visible = c.seq_lens[s] - c.q_lens[s] + i + 1;
        for (std::int64_t h = 0; h < c.heads; ++h) {
          const std::vector<float> q = joined(slice(q_latent.row(row) + h * c.d_latent, c.d_latent),
                                              slice(q_pe.row(row) + h * c.d_rope, c.d_rope));
          std::vector<Bounded> scores;
          std::vector<std::vector<float>> values;
          for (std::int64_t j = 0; j < visible; ++j) {
            const std::vector<float>& entry = entries[s][static_cast<std::size_t>(j)];
            scores.push_back(scaled_score(q, entry, scale, bf16_products));
            values.push_back(slice(entry.data(), c.d_latent));
          }
          const std::vector<Bounded> head = attend(scores, values, bf16_products);
          result.insert(result.end(), head.begin(), head.end());
        }
      }
    }
    return result;
  }

  std::int64_t width;
  std::int64_t num_rows;
  PageTables pages;
  PagedCache cache;
  HostTensor q_latent;
  HostTensor q_pe;
  HostTensor o;
  std::vector<std::int32_t> cu_seqlens{0};
  std::vector<std::vector<std::vector<float>>> entries;  // [sequence][position][width]
};

const AbsorbedCase kAbsorbedCases[] = {
    {{1}, {1}, 1, 4, 2, 1, DType::f32},
    {{1}, {9}, 3, 20, 6, 4, DType::f32},
    {{5}, {5}, 2, 33, 8, 3, DType::f32},
    {{1, 1, 1}, {17, 1, 64}, 5, 40, 16, 16, DType::bf16},
    {{1, 7, 3, 1}, {30, 7, 20, 129}, 4, 64, 16, 8, DType::f32},
    {{1, 7, 3, 1}, {30, 7, 20, 129}, 4, 64, 16, 8, DType::bf16},
    {{2, 40}, {600, 300}, 3, 48, 10, 64, DType::f32},
    {{1, 1}, {1030, 515}, 16, 512, 64, 64, DType::bf16},
    {{17}, {80}, 16, 512, 64, 16, DType::f32},
    {{1}, {70}, 128, 512, 64, 64, DType::bf16},
    {{3, 1, 1}, {200, 1, 65}, 64, 512, 64, 64, DType::bf16},
    {{40}, {100}, 16, 512, 64, 64, DType::bf16},
    {{1}, {300}, 40, 512, 64, 16, DType::bf16},
    {{4}, {129}, 24, 512, 64, 24, DType::bf16},
    {{1, 1, 1, 1}, {64, 3, 1, 1025}, 16, 512, 64, 64, DType::bf16},
};

TEST_P(AttentionTest, Absorbed) {
  Random random(60);
  int index = 0;
  for (const AbsorbedCase& c : kAbsorbedCases) {
    for (const bool aligned : {false, true}) {
      if (aligned && !gpu()) continue;  // the CPU's kernels make no difference
      AbsorbedRun run(random, c, aligned);
      const float scale = 1.5F / std::sqrt(static_cast<float>(run.width));
      device().table().mla_absorbed(device().exec(), run.args(c, scale));
      EXPECT_TRUE(within_bounds(run.o.values(), run.expected(c, scale, gpu())))
          << "case " << index << (aligned ? ", aligned" : "");
      EXPECT_TRUE(run.o.guards_intact()) << "case " << index;
    }
    ++index;
  }
}

// Scores of some hundreds: exp would overflow without the maximum subtracted.
TEST_P(AttentionTest, AbsorbedWithLargeScores) {
  Random random(61);
  const AbsorbedCase c{{3}, {50}, 2, 32, 8, 16, DType::f32};
  for (const float scale : {40.0F, -40.0F}) {
    AbsorbedRun run(random, c);
    device().table().mla_absorbed(device().exec(), run.args(c, scale));
    EXPECT_TRUE(within_bounds(run.o.values(), run.expected(c, scale, gpu()))) << scale;
  }
}

TEST_P(AttentionTest, AbsorbedWithoutSequences) {
  Random random(62);
  const AbsorbedCase c{{}, {}, 2, 32, 8, 16, DType::f32};
  AbsorbedRun run(random, c);
  device().table().mla_absorbed(device().exec(), run.args(c, 1.0F));
  EXPECT_TRUE(run.o.guards_intact());
}

TEST_P(AttentionTest, AbsorbedIsTheSameForAnyNumberOfThreads) {
  const AbsorbedCase c{{1, 20, 1}, {300, 90, 1025}, 6, 96, 16, 32, DType::bf16};
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    Random random(63);
    AbsorbedRun run(random, c);
    device(threads).table().mla_absorbed(device(threads).exec(), run.args(c, 0.1F));
    if (threads == 1) first = run.o.values();
    EXPECT_TRUE(same_bits(run.o.values(), first)) << threads << " threads";
  }
}

// A sequence's result does not depend on its neighbours in the batch; a run of a batch's sequences is
// passed by moving the pointers.
TEST_P(AttentionTest, AbsorbedAloneAndInABatch) {
  Random random(64);
  const AbsorbedCase both{{2, 3}, {40, 33}, 3, 64, 16, 8, DType::f32};
  AbsorbedRun run(random, both);
  device().table().mla_absorbed(device().exec(), run.args(both, 0.2F));
  MlaAbsorbedArgs alone = run.args(both, 0.2F);
  alone.q_latent = alone.q_latent.rows(2, 5);
  alone.q_pe = alone.q_pe.rows(2, 5);
  alone.ragged.num_seqs = 1;
  alone.ragged.cu_seqlens_q += 1;
  alone.ragged.seq_lens += 1;
  alone.ragged.page_tables += alone.ragged.max_pages;
  const HostTensor o({3, 3, 64});
  alone.o = o.view();
  device().table().mla_absorbed(device().exec(), alone);
  const std::vector<float> batch = run.o.values();
  const auto in_batch = std::span(batch).subspan(2 * 3 * 64);
  if (gpu()) {
    std::vector<Bounded> expected = run.expected(both, 0.2F, true);
    expected.erase(expected.begin(), expected.begin() + 2 * 3 * 64);
    EXPECT_TRUE(within_bounds(o.values(), expected));
    EXPECT_TRUE(within_bounds(in_batch, expected));
    return;
  }
  EXPECT_TRUE(same_bits(o.values(), in_batch));
}

struct MhaCase {
  std::int64_t m;
  std::int64_t length;
  std::int64_t heads;
  std::int64_t d_nope;
  std::int64_t d_rope;
  std::int64_t d_v;
};

const MhaCase kMhaCases[] = {
    {0, 5, 2, 8, 2, 8},         {1, 1, 1, 3, 2, 1},         {1, 33, 2, 24, 6, 20},
    {9, 9, 3, 16, 8, 40},       {7, 90, 4, 33, 10, 17},     {40, 300, 2, 128, 64, 128},
    {130, 130, 3, 64, 16, 64},  {3, 1200, 2, 32, 8, 48},    {300, 300, 2, 128, 64, 128},
    {5, 260, 45, 128, 64, 128}, {129, 511, 2, 128, 64, 128}};

TEST_P(AttentionTest, PlainMultiHead) {
  Random random(65);
  for (const MhaCase& c : kMhaCases) {
    // The size of real models also as a device has its tensors.
    const bool aligned = c.d_nope == 128;
    const std::int64_t lead = aligned ? HostTensor::kAligned : HostTensor::kUnaligned;
    const HostTensor q_nope({c.m, c.heads, c.d_nope}, random.floats(c.m * c.heads * c.d_nope),
                            aligned ? 0 : 3, lead);
    const HostTensor q_pe({c.m, c.heads, c.d_rope}, random.floats(c.m * c.heads * c.d_rope), aligned ? 0 : 1,
                          lead);
    // Keys and values side by side, as kv_b_proj leaves them.
    const std::int64_t d_kv = c.d_nope + c.d_v;
    const HostTensor kv({c.length, c.heads, d_kv}, random.floats(c.length * c.heads * d_kv), aligned ? 0 : 5,
                        lead);
    const HostTensor k_pe({c.length, c.d_rope}, random.floats(c.length * c.d_rope), aligned ? 0 : 2, lead);
    const HostTensor o({c.m, c.heads, c.d_v}, aligned ? 0 : 4, lead);
    const float scale = 2.0F / std::sqrt(static_cast<float>(c.d_nope + c.d_rope));
    device().table().mha(device().exec(), {.q_nope = q_nope.view(),
                                           .q_pe = q_pe.view(),
                                           .k_nope = kv.view().columns(0, c.d_nope),
                                           .k_pe = k_pe.view(),
                                           .v = kv.view().columns(c.d_nope, d_kv),
                                           .scale = scale,
                                           .o = o.view()});
    std::vector<Bounded> expected;
    for (std::int64_t i = 0; i < c.m; ++i) {
      for (std::int64_t h = 0; h < c.heads; ++h) {
        const std::vector<float> q = joined(slice(q_nope.row(i) + h * c.d_nope, c.d_nope),
                                            slice(q_pe.row(i) + h * c.d_rope, c.d_rope));
        std::vector<Bounded> scores;
        std::vector<std::vector<float>> values;
        for (std::int64_t j = 0; j < c.length - c.m + i + 1; ++j) {
          const float* entry = kv.row(j) + h * d_kv;
          scores.push_back(
              scaled_score(q, joined(slice(entry, c.d_nope), slice(k_pe.row(j), c.d_rope)), scale, gpu()));
          values.push_back(slice(entry + c.d_nope, c.d_v));
        }
        const std::vector<Bounded> head = attend(scores, values, gpu());
        expected.insert(expected.end(), head.begin(), head.end());
      }
    }
    EXPECT_TRUE(within_bounds(o.values(), expected)) << "m=" << c.m << " length=" << c.length;
    EXPECT_TRUE(o.guards_intact()) << "m=" << c.m << " length=" << c.length;
  }
}

// Keys and values in the type the table prefers: as if rounded to it.
TEST_P(AttentionTest, PlainMultiHeadOfRebuiltType) {
  if (device().table().rebuilt(128, 64, 128) != DType::bf16) GTEST_SKIP() << "prefers f32";
  Random random(67);
  for (const MhaCase& c : {MhaCase{140, 200, 3, 128, 64, 128}, MhaCase{9, 70, 2, 24, 6, 20}}) {
    const std::int64_t d_kv = c.d_nope + c.d_v;
    std::vector<float> rounded = random.floats(c.length * c.heads * d_kv);
    std::vector<std::uint16_t> codes;
    for (float& x : rounded) {
      codes.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16U));
      x = std::bit_cast<float>(std::uint32_t{codes.back()} << 16U);
    }
    const HostTensor q({c.m, c.heads, c.d_nope + c.d_rope},
                       random.floats(c.m * c.heads * (c.d_nope + c.d_rope)), 0, HostTensor::kAligned);
    const HostTensor k_pe({c.length, c.d_rope}, random.floats(c.length * c.d_rope), 0, HostTensor::kAligned);
    const HostTensor kv({c.length, c.heads, d_kv}, rounded, 0, HostTensor::kAligned);
    const TensorView kv_bf16 = make_view(codes.data(), DType::bf16, {c.length, c.heads, d_kv});
    std::vector<std::vector<float>> results;
    for (const TensorView& entries : {kv.view(), kv_bf16}) {
      const HostTensor o({c.m, c.heads, c.d_v}, 0, HostTensor::kAligned);
      device().table().mha(device().exec(), {.q_nope = q.view().columns(0, c.d_nope),
                                             .q_pe = q.view().columns(c.d_nope, c.d_nope + c.d_rope),
                                             .k_nope = entries.columns(0, c.d_nope),
                                             .k_pe = k_pe.view(),
                                             .v = entries.columns(c.d_nope, d_kv),
                                             .scale = 0.1F,
                                             .o = o.view()});
      results.push_back(o.values());
    }
    EXPECT_TRUE(same_bits(results[0], results[1])) << "m=" << c.m;
  }
}

// Later tokens do not matter, however large.
TEST_P(AttentionTest, PlainMultiHeadIsCausal) {
  Random random(66);
  constexpr std::int64_t kM = 20;
  constexpr std::int64_t kEarly = kM - 4;
  std::vector<float> kv = random.floats(kM * 16);
  std::vector<float> k_pe = random.floats(kM * 2);
  const HostTensor q_nope({kM, 1, 8}, random.floats(kM * 8));
  const HostTensor q_pe({kM, 1, 2}, random.floats(kM * 2));
  std::vector<float> first;
  for (const float later : {1.0F, 1e30F}) {
    std::fill(kv.begin() + 16 * kEarly, kv.end(), later);
    std::fill(k_pe.begin() + 2 * kEarly, k_pe.end(), -later);
    const HostTensor k({kM, 1, 16}, kv);
    const HostTensor pe({kM, 2}, k_pe);
    const HostTensor o({kM, 1, 8});
    device().table().mha(device().exec(), {.q_nope = q_nope.view(),
                                           .q_pe = q_pe.view(),
                                           .k_nope = k.view().columns(0, 8),
                                           .k_pe = pe.view(),
                                           .v = k.view().columns(8, 16),
                                           .scale = 1.0F,
                                           .o = o.view()});
    std::vector<float> early = o.values();
    early.resize(static_cast<std::size_t>(kEarly * 8));
    if (first.empty()) first = early;
    EXPECT_TRUE(same_bits(early, first)) << later;
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
