// Both attention forms: scores of all visible entries, softmax with the maximum subtracted, weighted
// sum. One task is one query row and head.
#include <algorithm>
#include <cmath>

#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {
namespace {

// Turns scores into probabilities in place.
void softmax(float* scores, std::int64_t count) {
  const float top = *std::max_element(scores, scores + count);
  float sum = 0.0F;
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = std::exp(scores[j] - top);
    sum += scores[j];
  }
  for (std::int64_t j = 0; j < count; ++j) scores[j] /= sum;
}

void add_scaled(float* o, float p, const float* v, std::int64_t d) {
  for (std::int64_t i = 0; i < d; ++i) o[i] += p * v[i];
}

// The visible entries of one query row.
struct QueryRow {
  const std::int32_t* page_table;
  std::int64_t num_visible;
};

QueryRow query_row(const RaggedArgs& ragged, std::int64_t row) {
  const std::int32_t* ends = ragged.cu_seqlens_q + 1;
  const std::int64_t s = std::upper_bound(ends, ends + ragged.num_seqs, row) - ends;
  NIB_CHECK(s < ragged.num_seqs, "query row {} belongs to none of {} sequences", row, ragged.num_seqs);
  const std::int64_t rows_after = ends[s] - 1 - row;
  const std::int64_t num_visible = ragged.seq_lens[s] - rows_after;
  NIB_CHECK(num_visible > 0, "sequence {} has {} entries but more query rows", s, ragged.seq_lens[s]);
  return {.page_table = ragged.page_tables + s * ragged.max_pages, .num_visible = num_visible};
}

}  // namespace

void mla_absorbed(Exec& exec, const MlaAbsorbedArgs& args) {
  const RaggedArgs& ragged = args.ragged;
  const std::int64_t d_latent = args.q_latent.dim(2);
  const std::int64_t d_rope = args.q_pe.dim(2);
  const std::int64_t num_heads = args.q_latent.dim(1);
  check_cache(args.cache, d_latent, d_rope);
  if (ragged.num_seqs == 0) return;
  const std::int64_t max_len = *std::max_element(ragged.seq_lens, ragged.seq_lens + ragged.num_seqs);
  const ThreadFloats scratch(exec, d_latent + d_rope + max_len);
  const std::int64_t first_row = ragged.cu_seqlens_q[0];
  const std::int64_t num_rows = ragged.cu_seqlens_q[ragged.num_seqs] - first_row;
  exec.threads().parallel_for(num_rows * num_heads, [&](std::int64_t task, int thread) {
    const std::int64_t row = task / num_heads;
    const std::int64_t head = task % num_heads;
    const QueryRow query = query_row(ragged, first_row + row);
    float* buffer = scratch.of(thread);
    float* scores = buffer + d_latent + d_rope;
    const auto entry = [&](std::int64_t j) {
      const std::int64_t page = query.page_table[j / ragged.page_size];
      return cache_entry(args.cache, page * ragged.page_size + j % ragged.page_size, d_latent, d_rope,
                         buffer);
    };
    for (std::int64_t j = 0; j < query.num_visible; ++j) {
      const float* e = entry(j);
      scores[j] = args.scale * (dot(row_of(args.q_latent, row, head), e, d_latent) +
                                dot(row_of(args.q_pe, row, head), e + d_latent, d_rope));
    }
    softmax(scores, query.num_visible);
    float* o = row_of(args.o, row, head);
    std::fill_n(o, d_latent, 0.0F);
    for (std::int64_t j = 0; j < query.num_visible; ++j) add_scaled(o, scores[j], entry(j), d_latent);
  });
}

void mha(Exec& exec, const MhaArgs& args) {
  const std::int64_t m = args.q_nope.dim(0);
  const std::int64_t num_heads = args.q_nope.dim(1);
  const std::int64_t length = args.k_pe.dim(0);
  const std::int64_t d_v = args.v.dim(2);
  NIB_CHECK(m <= length, "{} query rows over {} entries", m, length);
  if (m == 0) return;
  const ThreadFloats scratch(exec, length);
  exec.threads().parallel_for(m * num_heads, [&](std::int64_t task, int thread) {
    const std::int64_t row = task / num_heads;
    const std::int64_t head = task % num_heads;
    const std::int64_t num_visible = length - m + row + 1;
    float* scores = scratch.of(thread);
    for (std::int64_t j = 0; j < num_visible; ++j) {
      const float nope =
          dot(row_of(args.q_nope, row, head), row_of(args.k_nope, j, head), args.q_nope.dim(2));
      const float pe = dot(row_of(args.q_pe, row, head), row_of(args.k_pe, j), args.q_pe.dim(2));
      scores[j] = args.scale * (nope + pe);
    }
    softmax(scores, num_visible);
    float* o = row_of(args.o, row, head);
    std::fill_n(o, d_v, 0.0F);
    for (std::int64_t j = 0; j < num_visible; ++j) add_scaled(o, scores[j], row_of(args.v, j, head), d_v);
  });
}

}  // namespace nibble::kernels::ref
