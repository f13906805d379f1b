// Routed experts. Tokens are sorted by expert (stable counting sort), so that each expert's weights are
// decoded once per call; a token's sum runs over its experts in ascending id order.
#include <algorithm>

#include "kernels/cpu/layout.h"
#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"
#include "quant/activations.h"

namespace nibble::kernels::ref {
namespace {

using cpu::decode_row;

constexpr std::int64_t kRowsPerTask = 16;

// (token, expert) pairs in expert order; pairs [begins[e], begins[e + 1]) belong to expert e.
struct Pairs {
  std::int32_t* begins;  // [experts + 1]
  std::int32_t* tokens;  // [pairs]
  float* weights;        // [pairs]
};

// All memory of the op in one piece of scratch.
struct MoeScratch {
  MoeScratch(Exec& exec, std::int64_t num_experts, std::int64_t num_pairs, std::int64_t n,
             std::int64_t row_floats) {
    const std::int64_t words =
        (num_experts + 1) + 2 * num_pairs + num_pairs * n + exec.threads().num_threads() * row_floats;
    auto* ints =
        reinterpret_cast<std::int32_t*>(exec.scratch(static_cast<std::size_t>(words) * sizeof(float)));
    pairs.begins = ints;
    pairs.tokens = ints + num_experts + 1;
    auto* floats = reinterpret_cast<float*>(pairs.tokens + num_pairs);
    pairs.weights = floats;
    hidden = floats + num_pairs;
    rows = hidden + num_pairs * n;
  }

  Pairs pairs{};
  float* hidden;  // [pairs, n]
  float* rows;    // [threads, row_floats]
};

void sort_by_expert(const FusedMoeArgs& args, std::int64_t num_experts, const Pairs& pairs) {
  const std::int64_t num_slots = args.x.dim(0) * args.topk;
  std::fill_n(pairs.begins, num_experts + 1, 0);
  for (std::int64_t i = 0; i < num_slots; ++i) {
    const std::int64_t e = args.topk_ids[i];
    NIB_CHECK(e >= -1 && e < num_experts, "expert {} of {}", e, num_experts);
    if (e >= 0) ++pairs.begins[e + 1];
  }
  for (std::int64_t e = 0; e < num_experts; ++e) pairs.begins[e + 1] += pairs.begins[e];
  for (std::int64_t i = 0; i < num_slots; ++i) {
    const std::int64_t e = args.topk_ids[i];
    if (e < 0) continue;
    const std::int32_t at = pairs.begins[e]++;
    pairs.tokens[at] = static_cast<std::int32_t>(i / args.topk);
    pairs.weights[at] = args.topk_weights[i];
  }
  // Filling moved every begin to its expert's end.
  for (std::int64_t e = num_experts; e > 0; --e) pairs.begins[e] = pairs.begins[e - 1];
  pairs.begins[0] = 0;
}

// Rows [row_begin, row_end) of gate and up of expert e, for its tokens.
void hidden_rows(const FusedMoeArgs& args, const MoeScratch& scratch, std::int64_t e, std::int64_t row_begin,
                 std::int64_t row_end, float* gate) {
  const std::int64_t k = args.gate.shape.k;
  const std::int64_t n = args.gate.shape.n;
  float* up = gate + k;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    decode_row(args.gate, e, row, gate);
    decode_row(args.up, e, row, up);
    for (std::int64_t pair = scratch.pairs.begins[e]; pair < scratch.pairs.begins[e + 1]; ++pair) {
      const float* x = row_of(args.x, scratch.pairs.tokens[pair]);
      scratch.hidden[pair * n + row] = silu(dot(x, gate, k)) * dot(x, up, k);
    }
  }
}

// Adds expert e's part of output features [row_begin, row_end).
void add_output_rows(const FusedMoeArgs& args, const MoeScratch& scratch, std::int64_t e,
                     std::int64_t row_begin, std::int64_t row_end, float* down) {
  const std::int64_t n = args.down.shape.k;
  const Pairs& pairs = scratch.pairs;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    decode_row(args.down, e, row, down);
    for (std::int64_t pair = pairs.begins[e]; pair < pairs.begins[e + 1]; ++pair) {
      row_of(args.y, pairs.tokens[pair])[row] +=
          pairs.weights[pair] * dot(scratch.hidden + pair * n, down, n);
    }
  }
}

}  // namespace

void fused_moe(Exec& exec, const FusedMoeArgs& args) {
  const WeightShape& w = args.gate.shape;
  NIB_CHECK(args.x.dim(1) == w.k && args.y.dim(1) == w.k && args.down.shape.n == w.k &&
                args.down.shape.k == w.n && args.up.shape.n == w.n && args.up.shape.k == w.k,
            "experts [{}, {}] on x [{}, {}]", w.n, w.k, args.x.dim(0), args.x.dim(1));
  const std::int64_t num_experts = w.num_groups;
  const std::int64_t row_floats = std::max(2 * w.k, w.n);
  const MoeScratch scratch(exec, num_experts, args.x.dim(0) * args.topk, w.n, row_floats);
  sort_by_expert(args, num_experts, scratch.pairs);
  const auto is_used = [&](std::int64_t e) { return scratch.pairs.begins[e] < scratch.pairs.begins[e + 1]; };

  const std::int64_t blocks = (w.n + kRowsPerTask - 1) / kRowsPerTask;
  exec.threads().parallel_for(num_experts * blocks, [&](std::int64_t task, int thread) {
    const std::int64_t e = task / blocks;
    const std::int64_t begin = task % blocks * kRowsPerTask;
    const std::int64_t end = std::min(w.n, begin + kRowsPerTask);
    if (is_used(e)) hidden_rows(args, scratch, e, begin, end, scratch.rows + thread * row_floats);
  });
  if (args.hidden.rank != 0) {
    for (std::int64_t e = 0; e < num_experts; ++e) {
      for (std::int64_t pair = scratch.pairs.begins[e]; pair < scratch.pairs.begins[e + 1]; ++pair) {
        std::copy_n(scratch.hidden + pair * w.n, w.n,
                    hidden_row(args, scratch.pairs.tokens[pair], static_cast<std::int32_t>(e)));
      }
    }
  }
  exec.threads().parallel_for(scratch.pairs.begins[num_experts], [&](std::int64_t pair, int) {
    float* hidden = scratch.hidden + pair * w.n;
    quant::quantize_dequantize(args.down.shape.activations, hidden, w.n, hidden);
  });
  exec.threads().parallel_for((w.k + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int thread) {
    const std::int64_t begin = task * kRowsPerTask;
    const std::int64_t end = std::min(w.k, begin + kRowsPerTask);
    for (std::int64_t e = 0; e < num_experts; ++e) {
      if (is_used(e)) add_output_rows(args, scratch, e, begin, end, scratch.rows + thread * row_floats);
    }
  });
}

}  // namespace nibble::kernels::ref
