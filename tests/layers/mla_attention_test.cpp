// MlaAttention on its own: both forms against the definition, in ragged batches over scattered pages.
#include "layers/mla_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/cpu_info.h"
#include "tests/layers/fixture.h"

namespace nibble::layers {
namespace {

using testing::LayerFixture;
using testing::Matrix;
using testing::product;
using testing::view;

// Odd sizes: nothing is a multiple of a vector or of a panel.
MlaConfig config_with(std::int64_t q_lora_rank) {
  return {.hidden_size = 44,
          .num_attention_heads = 3,
          .q_lora_rank = q_lora_rank,
          .kv_lora_rank = 25,
          .qk_nope_head_dim = 9,
          .qk_rope_head_dim = 6,
          .v_head_dim = 7,
          .softmax_scale = 0.7F};
}

constexpr std::int64_t kPages = 12;
constexpr std::int32_t kPageSize = 4;
constexpr std::int32_t kMaxPages = 5;
constexpr std::int64_t kMaxLen = kPageSize * kMaxPages;

struct Weights {
  Matrix q;  // q_proj, or q_b_proj
  Matrix q_a;
  std::vector<float> q_norm;
  Matrix kv_a;
  std::vector<float> kv_norm;
  std::vector<Matrix> w_uk;
  std::vector<Matrix> w_uv;
  Matrix o;
};

class MlaFixture : public LayerFixture {
 public:
  MlaFixture(std::int64_t q_lora_rank, const std::string& isa)
      : LayerFixture(11, isa),
        config(config_with(q_lora_rank)),
        attention(config),
        rope({.dim = 6, .theta = 100.0}) {
    rope.build_tables(kMaxLen, device->exec());
    const std::int64_t heads = config.num_attention_heads;
    w.q = matrix(heads * config.qk_head_dim(), q_lora_rank > 0 ? q_lora_rank : config.hidden_size);
    w.kv_a = matrix(config.kv_lora_rank + config.qk_rope_head_dim, config.hidden_size);
    w.kv_norm = random.floats(config.kv_lora_rank, 0.5F, 2.0F);
    w.o = matrix(config.hidden_size, heads * config.v_head_dim);
    for (std::int64_t h = 0; h < heads; ++h) {
      w.w_uk.push_back(matrix(config.qk_nope_head_dim, config.kv_lora_rank));
      w.w_uv.push_back(matrix(config.v_head_dim, config.kv_lora_rank));
    }
    MlaWeights& target = attention.weights();
    if (q_lora_rank > 0) {
      w.q_a = matrix(q_lora_rank, config.hidden_size);
      w.q_norm = random.floats(q_lora_rank, 0.5F, 2.0F);
      fill(target.q_a_proj->weight(), {w.q_a});
      fill(target.q_a_layernorm->weight(), w.q_norm);
      fill(target.q_b_proj->weight(), {w.q});
    } else {
      fill(target.q_proj->weight(), {w.q});
    }
    fill(target.kv_a_proj_with_mqa.weight(), {w.kv_a});
    fill(target.kv_a_layernorm.weight(), w.kv_norm);
    fill(target.w_uk, w.w_uk);
    fill(target.w_uv, w.w_uv);
    fill(target.o_proj.weight(), {w.o});
  }

  MlaConfig config;
  MlaAttention attention;
  Rope rope;
  Weights w;
};

std::vector<float> to_f32(const std::vector<double>& values) { return {values.begin(), values.end()}; }

void norm_rows(std::vector<double>& x, std::size_t width, std::size_t normed,
               const std::vector<float>& weight) {
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    double squares = 0;
    for (std::size_t i = 0; i < normed; ++i) squares += x[begin + i] * x[begin + i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(normed) + 1e-6);
    for (std::size_t i = 0; i < normed; ++i) x[begin + i] *= scale * static_cast<double>(weight[i]);
  }
}

void rotate(double* x, std::int64_t dim, std::int64_t position) {
  for (std::int64_t j = 0; j < dim / 2; ++j) {
    const double angle = static_cast<double>(position) *
                         std::pow(100.0, -2.0 * static_cast<double>(j) / static_cast<double>(dim));
    const double a = x[2 * j];
    const double b = x[2 * j + 1];
    x[2 * j] = a * std::cos(angle) - b * std::sin(angle);
    x[2 * j + 1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

// One whole sequence from position 0 by the definition: full keys and values of every head.
std::vector<double> define(const MlaFixture& f, const std::vector<float>& x) {
  const MlaConfig& c = f.config;
  const std::int64_t length = static_cast<std::int64_t>(x.size()) / c.hidden_size;
  const std::int64_t qk = c.qk_head_dim();
  const auto width = static_cast<std::size_t>(c.kv_lora_rank + c.qk_rope_head_dim);
  std::vector<double> q_in(x.begin(), x.end());
  if (c.q_lora_rank > 0) {
    q_in = product(x, f.w.q_a);
    norm_rows(q_in, f.w.q_norm.size(), f.w.q_norm.size(), f.w.q_norm);
  }
  std::vector<double> q = product(to_f32(q_in), f.w.q);
  std::vector<double> kv = product(x, f.w.kv_a);
  norm_rows(kv, width, static_cast<std::size_t>(c.kv_lora_rank), f.w.kv_norm);
  std::vector<float> latent;
  for (std::int64_t t = 0; t < length; ++t) {
    double* entry = kv.data() + static_cast<std::size_t>(t) * width;
    rotate(entry + c.kv_lora_rank, c.qk_rope_head_dim, t);
    latent.insert(latent.end(), entry, entry + c.kv_lora_rank);
    for (std::int64_t h = 0; h < c.num_attention_heads; ++h) {
      rotate(q.data() + (t * c.num_attention_heads + h) * qk + c.qk_nope_head_dim, c.qk_rope_head_dim, t);
    }
  }
  std::vector<float> out(static_cast<std::size_t>(length * c.num_attention_heads * c.v_head_dim));
  for (std::int64_t h = 0; h < c.num_attention_heads; ++h) {
    const std::vector<double> k = product(latent, f.w.w_uk[static_cast<std::size_t>(h)]);
    const std::vector<double> v = product(latent, f.w.w_uv[static_cast<std::size_t>(h)]);
    for (std::int64_t t = 0; t < length; ++t) {
      const double* query = q.data() + (t * c.num_attention_heads + h) * qk;
      std::vector<double> p;
      double sum = 0;
      for (std::int64_t s = 0; s <= t; ++s) {
        double score = 0;
        for (std::int64_t i = 0; i < c.qk_nope_head_dim; ++i)
          score += query[i] * k[static_cast<std::size_t>(s * c.qk_nope_head_dim + i)];
        const double* k_pe = kv.data() + static_cast<std::size_t>(s) * width + c.kv_lora_rank;
        for (std::int64_t i = 0; i < c.qk_rope_head_dim; ++i)
          score += query[c.qk_nope_head_dim + i] * k_pe[i];
        p.push_back(std::exp(score * static_cast<double>(c.softmax_scale)));
        sum += p.back();
      }
      for (std::int64_t i = 0; i < c.v_head_dim; ++i) {
        double value = 0;
        for (std::size_t s = 0; s < p.size(); ++s)
          value += p[s] / sum * v[s * static_cast<std::size_t>(c.v_head_dim) + static_cast<std::size_t>(i)];
        out[static_cast<std::size_t>((t * c.num_attention_heads + h) * c.v_head_dim + i)] =
            static_cast<float>(value);
      }
    }
  }
  return product(out, f.w.o);
}

// A step's part of one sequence.
struct Part {
  std::int32_t seq;
  std::int32_t begin;
  std::int32_t end;
};

// Feeds two sequences step by step and returns their outputs.
std::vector<std::vector<float>> feed(MlaFixture& f, const std::vector<std::vector<float>>& x,
                                     const std::vector<std::vector<Part>>& steps, MlaMode mode) {
  const std::int64_t hidden = f.config.hidden_size;
  const std::int64_t width = f.config.kv_lora_rank + f.config.qk_rope_head_dim;
  // Page 11 is never written; page tables point there past a sequence's end.
  const std::vector<std::vector<std::int32_t>> pages{{7, 2, 9, 0, 4}, {3, 10, 1, 8, 5}};
  std::vector<float> cache(static_cast<std::size_t>(kPages * kPageSize * width), NAN);
  const TensorView cache_view = make_view(cache.data(), DType::f32, {kPages * kPageSize, width});
  std::vector<std::vector<float>> outputs(x.size());
  for (const std::vector<Part>& step : steps) {
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> slots;
    std::vector<std::int32_t> cu{0};
    std::vector<std::int32_t> lens;
    std::vector<std::int32_t> tables;
    std::vector<float> in;
    for (const Part& part : step) {
      const auto seq = static_cast<std::size_t>(part.seq);
      for (std::int32_t p = part.begin; p < part.end; ++p) {
        positions.push_back(p);
        slots.push_back(pages[seq][static_cast<std::size_t>(p / kPageSize)] * kPageSize + p % kPageSize);
        in.insert(in.end(), x[seq].begin() + p * hidden, x[seq].begin() + (p + 1) * hidden);
      }
      cu.push_back(static_cast<std::int32_t>(positions.size()));
      lens.push_back(part.end);
      for (std::int32_t i = 0; i < kMaxPages; ++i) {
        tables.push_back(i * kPageSize < part.end ? pages[seq][static_cast<std::size_t>(i)] : kPages - 1);
      }
    }
    const ForwardBatch batch{.token_ids = positions,  // unused by attention; gives the number of tokens
                             .positions = positions,
                             .cu_seqlens_q = cu,
                             .seq_lens = lens,
                             .page_tables = tables,
                             .max_pages = kMaxPages,
                             .slot_mapping = slots,
                             .mla_mode = mode};
    const auto m = static_cast<std::int64_t>(positions.size());
    std::vector<float> out(in.size(), NAN);
    f.run([&](Context& ctx) {
      f.attention.forward(ctx, batch, f.rope, cache_view, kPageSize, view(in, m, hidden),
                          view(out, m, hidden));
    });
    auto from = out.begin();
    for (const Part& part : step) {
      const auto to = from + (part.end - part.begin) * hidden;
      std::vector<float>& target = outputs[static_cast<std::size_t>(part.seq)];
      target.insert(target.end(), from, to);
      from = to;
    }
  }
  return outputs;
}

// Chunks and single steps of both sequences, alone and beside each other.
const std::vector<std::vector<Part>> kSteps = {
    {{0, 0, 9}},
    {{1, 0, 3}, {0, 9, 10}},
    {{1, 3, 15}, {0, 10, 11}},
    {{0, 11, 12}, {1, 15, 16}},
    {{0, 12, 19}, {1, 16, 20}},
};

struct MlaCase {
  std::int64_t q_lora_rank;
  MlaMode mode;
  std::string isa;
};

class MlaAttentionTest : public ::testing::TestWithParam<MlaCase> {};

TEST_P(MlaAttentionTest, MatchesTheDefinition) {
  const MlaCase& c = GetParam();
  MlaFixture f(c.q_lora_rank, c.isa);
  const std::vector<std::vector<float>> x{f.random.floats(19 * f.config.hidden_size),
                                          f.random.floats(20 * f.config.hidden_size)};
  const std::vector<std::vector<float>> outputs = feed(f, x, kSteps, c.mode);
  for (std::size_t seq = 0; seq < 2; ++seq) testing::expect_close(outputs[seq], define(f, x[seq]), 1e-5);
}

std::vector<MlaCase> mla_cases() {
  std::vector<std::string> isas{"scalar"};
  if (cpu_info().avx2) isas.emplace_back("avx2");
  if (cpu_info().avx512) isas.emplace_back("avx512_f32");
  std::vector<MlaCase> cases;
  for (const std::string& isa : isas) {
    for (const std::int64_t rank : {0, 13}) {
      for (const MlaMode mode : {MlaMode::naive, MlaMode::absorb, MlaMode::automatic})
        cases.push_back({rank, mode, isa});
    }
  }
  return cases;
}

std::string mla_case_name(const ::testing::TestParamInfo<MlaCase>& info) {
  const char* mode = info.param.mode == MlaMode::naive    ? "naive"
                     : info.param.mode == MlaMode::absorb ? "absorb"
                                                          : "auto";
  return std::string(mode) + "_q" + std::to_string(info.param.q_lora_rank) + "_" + info.param.isa;
}

INSTANTIATE_TEST_SUITE_P(Forms, MlaAttentionTest, ::testing::ValuesIn(mla_cases()), mla_case_name);

// What counting finds for the largest batch must do for any smaller one, whichever form it takes.
TEST(MlaAttention, CountedScratchCoversEveryChoice) {
  MlaFixture f(13, "scalar");
  const auto scratch_of = [&](std::int32_t rows, std::int32_t length, MlaMode mode, bool counting) {
    const std::vector<std::int32_t> cu{0, rows};
    const std::vector<std::int32_t> lens{length};
    const std::vector<std::int32_t> zeros(static_cast<std::size_t>(length), 0);
    const std::span<const std::int32_t> row_zeros = std::span(zeros).first(static_cast<std::size_t>(rows));
    const ForwardBatch batch{.token_ids = row_zeros,
                             .positions = row_zeros,
                             .cu_seqlens_q = cu,
                             .seq_lens = lens,
                             .page_tables = zeros,
                             .max_pages = length,
                             .slot_mapping = row_zeros,
                             .mla_mode = mode};
    Arena counter;
    Arena large(std::size_t{1} << 22);
    const kernels::KernelTable kernels = kernels::counting_kernels();
    Context ctx{.table = kernels,
                .exec = f.device->exec(),
                .arena = counting ? counter : large,
                .comm = comm::single()};
    const std::int64_t hidden = f.config.hidden_size;
    std::vector<float> x(static_cast<std::size_t>(rows * hidden));
    f.attention.forward(ctx, batch, f.rope, make_view(x.data(), DType::f32, {1, 31}), kPageSize,
                        view(x, rows, hidden), view(x, rows, hidden));
    return ctx.arena.peak();
  };
  constexpr std::int32_t kRows = 16;
  constexpr std::int32_t kLength = 64;
  for (const MlaMode mode : {MlaMode::automatic, MlaMode::naive, MlaMode::absorb}) {
    const std::size_t counted = scratch_of(kRows, kLength, mode, true);
    for (std::int32_t rows = 1; rows <= kRows; ++rows) {
      for (std::int32_t length = rows; length <= kLength; length += 7) {
        EXPECT_LE(scratch_of(rows, length, mode, false), counted) << rows << " of " << length;
      }
    }
  }
}

}  // namespace
}  // namespace nibble::layers
