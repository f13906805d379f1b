// Two passes over the experts that were chosen, each reading every weight byte once:
//   1. h = silu(x gate^T) * (x up^T), one task per (expert, panels);
//   2. y += weight * h down^T, one task per panels of y, experts in ascending order inside it, so that
//      no two tasks write the same value and a token's sum has a fixed order.
#include "kernels/cpu/moe.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/scratch.h"
#include "quant/activations.h"

namespace nibble::kernels::cpu {
namespace {

// One expert's share of the batch.
struct ExpertRun {
  std::int32_t expert;
  std::int32_t begin;  // into the sorted assignments
  std::int32_t count;
};

// Assignments (token, weight) sorted by expert, tokens ascending inside one; runs cut at kBlockM.
struct Routing {
  std::int32_t* tokens;  // [num_assignments]
  float* weights;        // [num_assignments]
  ExpertRun* runs;
  std::int64_t num_runs = 0;
  std::int64_t num_assignments = 0;
  std::int64_t max_count = 0;
};

void sort_by_expert(const FusedMoeArgs& args, std::int64_t num_experts, std::int32_t* offsets,
                    Routing& routing) {
  const std::int64_t total = args.x.dim(0) * args.topk;
  std::fill_n(offsets, num_experts + 1, 0);
  for (std::int64_t i = 0; i < total; ++i) {
    const std::int32_t expert = args.topk_ids[i];
    if (expert < 0) continue;
    NIB_CHECK(expert < num_experts, "expert {} of {}", expert, num_experts);
    ++offsets[expert + 1];
  }
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const std::int32_t count = offsets[e + 1];
    offsets[e + 1] += offsets[e];
    for (std::int32_t done = 0; done < count;) {
      const auto part = static_cast<std::int32_t>(std::min<std::int64_t>(kBlockM, count - done));
      routing.runs[routing.num_runs++] = {static_cast<std::int32_t>(e), offsets[e] + done, part};
      routing.max_count = std::max<std::int64_t>(routing.max_count, part);
      done += part;
    }
  }
  routing.num_assignments = offsets[num_experts];
  for (std::int64_t i = 0; i < total; ++i) {
    const std::int32_t expert = args.topk_ids[i];
    if (expert < 0) continue;
    const std::int32_t at = offsets[expert]++;
    routing.tokens[at] = static_cast<std::int32_t>(i / args.topk);
    routing.weights[at] = args.topk_weights[i];
  }
}

// The tiles of one run: its assignments' share of `out`, which holds float32 for all.
XTiles run_tiles(const Tier& tier, const FormatKernels& kernels, const ExpertRun& run, std::int64_t k,
                 std::byte* out) {
  return {.data = out + XTiles::bytes(run.begin, k, false),
          .m = run.count,
          .k = k,
          .micro_m = tier.micro_m,
          .bf16 = kernels.bf16_x(run.count)};
}

void pack_runs(const Tier& tier, const FormatKernels& kernels, const Routing& routing, const TensorView& x,
               bool gather, std::byte* out, ThreadPool& threads) {
  const std::int64_t k = x.dim(1);
  threads.parallel_for(routing.num_runs, [&](std::int64_t r, int) {
    const ExpertRun& run = routing.runs[r];
    const XRows rows{.data = gather ? x.f32() : x.f32() + run.begin * x.stride[0],
                     .stride = x.stride[0],
                     .rows = gather ? routing.tokens + run.begin : nullptr,
                     .m = run.count,
                     .k = k};
    const XTiles tiles = run_tiles(tier, kernels, run, k, out);
    pack_x(rows, tier.micro_m, tiles.bf16, const_cast<std::byte*>(tiles.data));
  });
}

}  // namespace

void fused_moe(const Tier& tier, Exec& exec, const FusedMoeArgs& args) {
  const WeightShape& up_shape = args.gate.shape;
  const WeightShape& down_shape = args.down.shape;
  NIB_CHECK(up_shape.k == args.x.dim(1) && down_shape.k == up_shape.n && down_shape.n == args.y.dim(1) &&
                decoder_of(args.up.shape) == decoder_of(up_shape),
            "experts [{}, {}] and [{}, {}] on [{}, {}]", up_shape.n, up_shape.k, down_shape.n, down_shape.k,
            args.x.dim(0), args.x.dim(1));
  const std::int64_t total = args.x.dim(0) * args.topk;
  if (total == 0) return;
  ThreadPool& threads = exec.threads();
  const auto num_threads = static_cast<std::size_t>(threads.num_threads());
  const FormatKernels& up_k = tier.fast[static_cast<std::size_t>(decoder_of(up_shape))];
  const FormatKernels& down_k = tier.fast[static_cast<std::size_t>(decoder_of(down_shape))];
  const std::int64_t h_stride = round_up(up_shape.n, kPanelRows);
  const std::int64_t max_runs = std::min(up_shape.num_groups, total) + ceil_div(total, kBlockM);

  const auto total_size = static_cast<std::size_t>(total);
  const std::size_t offset_bytes = static_cast<std::size_t>(up_shape.num_groups + 1) * 4;
  const std::size_t run_bytes = static_cast<std::size_t>(max_runs) * sizeof(ExpertRun);
  const std::size_t x_bytes = XTiles::bytes(total, up_shape.k, false);
  const std::size_t h_bytes = total_size * static_cast<std::size_t>(h_stride) * 4;
  const std::size_t h_tile_bytes = XTiles::bytes(total, down_shape.k, false);
  const std::size_t thread_bytes = align_scratch(matmul_scratch_bytes(std::min(kBlockM, total)));
  Scratch scratch(exec, {offset_bytes, total_size * 4, total_size * 4, run_bytes, x_bytes, h_bytes, h_bytes,
                         h_tile_bytes, thread_bytes * num_threads});
  auto* offsets = scratch.take<std::int32_t>(offset_bytes);
  Routing routing{};
  routing.tokens = scratch.take<std::int32_t>(total_size * 4);
  routing.weights = scratch.take<float>(total_size * 4);
  routing.runs = scratch.take<ExpertRun>(run_bytes);
  std::byte* x_tiles = scratch.take(x_bytes);
  auto* gate_out = scratch.take<float>(h_bytes);
  auto* up_out = scratch.take<float>(h_bytes);
  std::byte* h_tiles = scratch.take(h_tile_bytes);
  std::byte* team_scratch = scratch.take(thread_bytes * num_threads);
  sort_by_expert(args, up_shape.num_groups, offsets, routing);
  pack_runs(tier, up_k, routing, args.x, true, x_tiles, threads);

  const std::int64_t up_panels = ceil_div(up_shape.n, kPanelRows);
  const std::int64_t up_step = panels_per_task(up_panels, threads.num_threads(), routing.max_count);
  const std::int64_t tasks_per_run = ceil_div(up_panels, up_step);
  threads.parallel_for(routing.num_runs * tasks_per_run, [&](std::int64_t i, int thread) {
    const ExpertRun& run = routing.runs[i / tasks_per_run];
    const std::int64_t first = i % tasks_per_run * up_step;
    const std::int64_t last = std::min(first + up_step, up_panels);
    for (const bool is_gate : {true, false}) {
      MatmulTask task = group_task(is_gate ? args.gate : args.up, run.expert);
      task.panel_begin = first;
      task.panel_end = last;
      task.x = run_tiles(tier, up_k, run, up_shape.k, x_tiles);
      task.out = {.data = (is_gate ? gate_out : up_out) + run.begin * h_stride, .stride = h_stride};
      task.scratch = team_scratch + static_cast<std::size_t>(thread) * thread_bytes;
      up_k.matmul(task);
    }
    const std::int64_t row = first * kPanelRows;
    const std::int64_t rows_here = std::min(last * kPanelRows, up_shape.n) - row;
    for (std::int64_t t = run.begin; t < run.begin + run.count; ++t) {
      float* h = gate_out + t * h_stride + row;
      tier.silu_mul(h, up_out + t * h_stride + row, h, rows_here);
    }
  });

  if (args.hidden.rank != 0) {
    for (std::int64_t r = 0; r < routing.num_runs; ++r) {
      const ExpertRun& run = routing.runs[r];
      for (std::int64_t i = run.begin; i < run.begin + run.count; ++i)
        std::copy_n(gate_out + i * h_stride, up_shape.n, hidden_row(args, routing.tokens[i], run.expert));
    }
  }
  if (down_shape.activations != quant::ActivationFormat::none) {
    threads.parallel_for(routing.num_assignments, [&](std::int64_t i, int) {
      float* row = gate_out + i * h_stride;
      quant::quantize_dequantize(down_shape.activations, row, down_shape.k, row);
    });
  }
  TensorView h = make_view(gate_out, DType::f32, {routing.num_assignments, down_shape.k});
  h.stride[0] = h_stride;
  pack_runs(tier, down_k, routing, h, false, h_tiles, threads);

  const std::int64_t down_panels = ceil_div(down_shape.n, kPanelRows);
  const std::int64_t down_step = panels_per_task(down_panels, threads.num_threads(), routing.max_count);
  threads.parallel_for(ceil_div(down_panels, down_step), [&](std::int64_t i, int thread) {
    for (std::int64_t r = 0; r < routing.num_runs; ++r) {
      const ExpertRun& run = routing.runs[r];
      MatmulTask task = group_task(args.down, run.expert);
      task.panel_begin = i * down_step;
      task.panel_end = std::min(task.panel_begin + down_step, down_panels);
      task.x = run_tiles(tier, down_k, run, down_shape.k, h_tiles);
      task.out = {.data = args.y.f32(),
                  .stride = args.y.stride[0],
                  .token_rows = routing.tokens + run.begin,
                  .factors = routing.weights + run.begin,
                  .accumulate = true};
      task.scratch = team_scratch + static_cast<std::size_t>(thread) * thread_bytes;
      down_k.matmul(task);
    }
  });
}

}  // namespace nibble::kernels::cpu
