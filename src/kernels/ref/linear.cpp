// Matrix products. Every weight row is decoded once per call, however many tokens use it.
#include <algorithm>

#include "kernels/cpu/layout.h"
#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {
namespace {

using cpu::decode_row;

// Weight rows handled by one task.
constexpr std::int64_t kRowsPerTask = 16;

// Calls fn(row, buffer of `floats` floats) for rows [0, n) on all threads.
template <class Fn>
void for_each_row(Exec& exec, std::int64_t n, std::int64_t floats, const Fn& fn) {
  const ThreadFloats scratch(exec, floats);
  exec.threads().parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int thread) {
    const std::int64_t end = std::min(n, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) fn(row, scratch.of(thread));
  });
}

void check_product(const TensorView& x, const WeightShape& w, const TensorView& y) {
  NIB_CHECK(x.dim(x.rank - 1) == w.k && y.dim(y.rank - 1) == w.n && x.dim(0) == y.dim(0),
            "product of x [{}, {}] and w [{}, {}] into y [{}, {}]", x.dim(0), x.dim(x.rank - 1), w.n, w.k,
            y.dim(0), y.dim(y.rank - 1));
}

}  // namespace

void embed(Exec& exec, const EmbedArgs& args) {
  const WeightShape& table = args.table.shape;
  exec.threads().parallel_for(args.y.dim(0), [&](std::int64_t i, int) {
    const std::int64_t id = args.ids[i];
    NIB_CHECK(id >= 0 && id < table.n, "token id {} is outside the vocabulary of {}", id, table.n);
    decode_row(args.table, 0, id, row_of(args.y, i));
  });
}

void linear(Exec& exec, const LinearArgs& args) {
  const WeightShape& w = args.w.shape;
  check_product(args.x, w, args.y);
  const std::int64_t m = args.x.dim(0);
  if (m == 0) return;
  for_each_row(exec, w.n, w.k, [&](std::int64_t row, float* weights) {
    decode_row(args.w, 0, row, weights);
    for (std::int64_t i = 0; i < m; ++i) {
      float& y = row_of(args.y, i)[row];
      const float product = dot(row_of(args.x, i), weights, w.k);
      y = args.accumulate ? y + product : product;
    }
  });
}

void linear_pair(Exec& exec, const LinearPairArgs& args) {
  linear(exec, {.x = args.x, .w = args.first, .y = args.first_y});
  linear(exec, {.x = args.x, .w = args.second, .y = args.second_y});
}

void gated_linear(Exec& exec, const GatedLinearArgs& args) {
  const WeightShape& w = args.gate.shape;
  check_product(args.x, w, args.y);
  check_product(args.x, args.up.shape, args.y);
  const std::int64_t m = args.x.dim(0);
  if (m == 0) return;
  for_each_row(exec, w.n, 2 * w.k, [&](std::int64_t row, float* gate) {
    float* up = gate + w.k;
    decode_row(args.gate, 0, row, gate);
    decode_row(args.up, 0, row, up);
    for (std::int64_t i = 0; i < m; ++i) {
      const float* x = row_of(args.x, i);
      row_of(args.y, i)[row] = silu(dot(x, gate, w.k)) * dot(x, up, w.k);
    }
  });
}

void head_linear(Exec& exec, const HeadLinearArgs& args) {
  const WeightShape& w = args.w.shape;
  check_product(args.x, w, args.y);
  const std::int64_t m = args.x.dim(0);
  if (m == 0) return;
  for_each_row(exec, w.num_groups * w.n, w.k, [&](std::int64_t task, float* weights) {
    const std::int64_t head = task / w.n;
    const std::int64_t row = task % w.n;
    decode_row(args.w, head, row, weights);
    for (std::int64_t i = 0; i < m; ++i) {
      const float* x = args.x.rank == 2 ? row_of(args.x, i) : row_of(args.x, i, head);
      row_of(args.y, i, head)[row] = dot(x, weights, w.k);
    }
  });
}

void head_linear_transposed(Exec& exec, const HeadLinearTransposedArgs& args) {
  const WeightShape& w = args.w.shape;
  const std::int64_t m = args.x.dim(0);
  NIB_CHECK(args.x.dim(2) == w.n && args.y.dim(2) == w.k && args.y.dim(0) == m,
            "transposed product of x [{}, {}, {}] and w [{}, {}]", m, args.x.dim(1), args.x.dim(2), w.n, w.k);
  if (m == 0) return;
  const ThreadFloats scratch(exec, w.k);
  exec.threads().parallel_for(w.num_groups, [&](std::int64_t head, int thread) {
    float* weights = scratch.of(thread);
    for (std::int64_t i = 0; i < m; ++i) std::fill_n(row_of(args.y, i, head), w.k, 0.0F);
    for (std::int64_t row = 0; row < w.n; ++row) {
      decode_row(args.w, head, row, weights);
      for (std::int64_t i = 0; i < m; ++i) {
        const float x = row_of(args.x, i, head)[row];
        float* y = row_of(args.y, i, head);
        for (std::int64_t kk = 0; kk < w.k; ++kk) y[kk] += x * weights[kk];
      }
    }
  });
}

}  // namespace nibble::kernels::ref
