#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/scratch.h"

namespace nibble::kernels::cpu {
namespace {

const FormatKernels& kernels_for(const Tier& tier, const Weight& w, Precision precision) {
  const auto i = static_cast<std::size_t>(decoder_of(w.shape));
  return precision == Precision::exact ? tier.exact[i] : tier.fast[i];
}

XRows rows_of(const TensorView& x, std::int64_t begin, std::int64_t m) {
  return {.data = x.f32() + begin * x.stride[0], .stride = x.stride[0], .m = m, .k = x.dim(1)};
}

// Splits m into blocks of at most kBlockM and hands each to fn(begin, count).
template <class Fn>
void for_m_blocks(std::int64_t m, Fn&& fn) {
  for (std::int64_t begin = 0; begin < m; begin += kBlockM) fn(begin, std::min(kBlockM, m - begin));
}

}  // namespace

MatmulTask group_task(const Weight& w, std::int64_t group) {
  return {.codes = w.codes.data() + group * w.codes_group_bytes,
          .scales = w.scales.data() + group * w.scales_group_bytes,
          .layout = panel_layout(w.shape),
          .n = w.shape.n};
}

std::int64_t panels_per_task(std::int64_t num_panels, std::int64_t num_threads, std::int64_t m) {
  if (num_threads == 1) return num_panels;
  const std::int64_t share = ceil_div(num_panels, num_threads * 4);
  const std::int64_t unit = m > 4 ? kTaskPanels : 2;  // whole tiles for the tiled path
  return round_up(share, unit);
}

void linear(const Tier& tier, Exec& exec, const LinearArgs& args) {
  const Weight& w = args.w;
  NIB_CHECK(args.x.dim(1) == w.shape.k && args.y.dim(1) == w.shape.n && args.x.dim(0) == args.y.dim(0),
            "linear of [{}, {}] by [{}, {}] into [{}, {}]", args.x.dim(0), args.x.dim(1), w.shape.n,
            w.shape.k, args.y.dim(0), args.y.dim(1));
  const FormatKernels& k = kernels_for(tier, w, args.precision);
  ThreadPool& threads = exec.threads();
  for_m_blocks(args.x.dim(0), [&](std::int64_t begin, std::int64_t m) {
    const std::size_t x_bytes = XTiles::bytes(m, w.shape.k, k.bf16_x(m));
    const std::size_t thread_bytes = align_scratch(matmul_scratch_bytes(m));
    const std::size_t team_bytes = thread_bytes * static_cast<std::size_t>(threads.num_threads());
    Scratch scratch(exec, {x_bytes, team_bytes});
    const XTiles x =
        pack_x(rows_of(args.x, begin, m), tier.micro_m, k.bf16_x(m), scratch.take(x_bytes), threads);
    std::byte* team_scratch = scratch.take(team_bytes);
    MatmulTask base = group_task(w, 0);
    base.x = x;
    base.out = {.data = args.y.f32() + begin * args.y.stride[0],
                .stride = args.y.stride[0],
                .accumulate = args.accumulate};
    const std::int64_t step = panels_per_task(base.layout.num_panels, threads.num_threads(), m);
    threads.parallel_for(ceil_div(base.layout.num_panels, step), [&](std::int64_t i, int thread) {
      MatmulTask task = base;
      task.panel_begin = i * step;
      task.panel_end = std::min(task.panel_begin + step, base.layout.num_panels);
      task.scratch = team_scratch + static_cast<std::size_t>(thread) * thread_bytes;
      k.matmul(task);
    });
  });
}

void gated_linear(const Tier& tier, Exec& exec, const GatedLinearArgs& args) {
  const WeightShape& shape = args.gate.shape;
  NIB_CHECK(shape.n == args.up.shape.n && shape.k == args.up.shape.k && args.x.dim(1) == shape.k &&
                args.y.dim(1) == shape.n,
            "gated linear of [{}, {}] by [{}, {}] and [{}, {}]", args.x.dim(0), args.x.dim(1), shape.n,
            shape.k, args.up.shape.n, args.up.shape.k);
  const FormatKernels& gate_k = kernels_for(tier, args.gate, Precision::fast);
  const FormatKernels& up_k = kernels_for(tier, args.up, Precision::fast);
  ThreadPool& threads = exec.threads();
  for_m_blocks(args.x.dim(0), [&](std::int64_t begin, std::int64_t m) {
    const std::size_t gate_bytes = XTiles::bytes(m, shape.k, gate_k.bf16_x(m));
    const std::size_t up_bytes =
        gate_k.bf16_x(m) == up_k.bf16_x(m) ? 0 : XTiles::bytes(m, shape.k, up_k.bf16_x(m));
    const std::int64_t up_stride = round_up(shape.n, kPanelRows);
    const std::size_t up_out_bytes = static_cast<std::size_t>(m * up_stride) * 4;
    const std::size_t thread_bytes = align_scratch(matmul_scratch_bytes(m));
    const std::size_t team_bytes = thread_bytes * static_cast<std::size_t>(threads.num_threads());
    Scratch scratch(exec, {gate_bytes, up_bytes, up_out_bytes, team_bytes});
    const XRows rows = rows_of(args.x, begin, m);
    const XTiles gate_x = pack_x(rows, tier.micro_m, gate_k.bf16_x(m), scratch.take(gate_bytes), threads);
    std::byte* up_tiles = scratch.take(up_bytes);
    const XTiles up_x =
        up_bytes == 0 ? gate_x : pack_x(rows, tier.micro_m, up_k.bf16_x(m), up_tiles, threads);
    auto* up_out = scratch.take<float>(up_out_bytes);
    std::byte* team_scratch = scratch.take(team_bytes);
    MatmulTask gate = group_task(args.gate, 0);
    gate.x = gate_x;
    gate.out = {.data = args.y.f32() + begin * args.y.stride[0], .stride = args.y.stride[0]};
    MatmulTask up = group_task(args.up, 0);
    up.x = up_x;
    up.out = {.data = up_out, .stride = up_stride};
    const std::int64_t step = panels_per_task(gate.layout.num_panels, threads.num_threads(), m);
    threads.parallel_for(ceil_div(gate.layout.num_panels, step), [&](std::int64_t i, int thread) {
      const std::int64_t first = i * step;
      const std::int64_t last = std::min(first + step, gate.layout.num_panels);
      for (const auto* half : {&gate, &up}) {
        MatmulTask task = *half;
        task.panel_begin = first;
        task.panel_end = last;
        task.scratch = team_scratch + static_cast<std::size_t>(thread) * thread_bytes;
        (half == &gate ? gate_k : up_k).matmul(task);
      }
      const std::int64_t row = first * kPanelRows;
      const std::int64_t rows_here = std::min(last * kPanelRows, shape.n) - row;
      for (std::int64_t t = 0; t < m; ++t) {
        float* y = gate.out.data + t * gate.out.stride + row;
        tier.silu_mul(y, up_out + t * up_stride + row, y, rows_here);
      }
    });
  });
}

void head_linear(const Tier& tier, Exec& exec, const HeadLinearArgs& args) {
  const Weight& w = args.w;
  const std::int64_t heads = w.shape.num_groups;
  const bool shared = args.x.rank == 2;
  NIB_CHECK(args.x.dim(args.x.rank - 1) == w.shape.k && args.y.dim(1) == heads && args.y.dim(2) == w.shape.n,
            "head linear of k {} by {} x [{}, {}]", args.x.dim(args.x.rank - 1), heads, w.shape.n, w.shape.k);
  const FormatKernels& k = kernels_for(tier, w, Precision::fast);
  ThreadPool& threads = exec.threads();
  for_m_blocks(args.x.dim(0), [&](std::int64_t begin, std::int64_t m) {
    const std::size_t x_bytes = align_scratch(XTiles::bytes(m, w.shape.k, k.bf16_x(m)));
    const std::size_t thread_bytes = align_scratch(matmul_scratch_bytes(m)) + (shared ? 0 : x_bytes);
    const std::size_t team_bytes = thread_bytes * static_cast<std::size_t>(threads.num_threads());
    Scratch scratch(exec, {shared ? x_bytes : 0, team_bytes});
    std::byte* shared_bytes = scratch.take(shared ? x_bytes : 0);
    XTiles shared_x;
    if (shared)
      shared_x = pack_x(rows_of(args.x, begin, m), tier.micro_m, k.bf16_x(m), shared_bytes, threads);
    std::byte* team_scratch = scratch.take(team_bytes);
    threads.parallel_for(heads, [&](std::int64_t head, int thread) {
      std::byte* mine = team_scratch + static_cast<std::size_t>(thread) * thread_bytes;
      MatmulTask task = group_task(w, head);
      task.x = shared_x;
      if (!shared) {
        const XRows rows{.data = args.x.f32() + begin * args.x.stride[0] + head * args.x.stride[1],
                         .stride = args.x.stride[0],
                         .m = m,
                         .k = w.shape.k};
        task.x = pack_x(rows, tier.micro_m, k.bf16_x(m), mine);
        mine += x_bytes;
      }
      task.panel_end = task.layout.num_panels;
      task.out = {.data = args.y.f32() + begin * args.y.stride[0] + head * args.y.stride[1],
                  .stride = args.y.stride[0]};
      task.scratch = mine;
      k.matmul(task);
    });
  });
}

void head_linear_transposed(const Tier& tier, Exec& exec, const HeadLinearTransposedArgs& args) {
  const Weight& w = args.w;
  const std::int64_t heads = w.shape.num_groups;
  NIB_CHECK(args.x.dim(1) == heads && args.x.dim(2) == w.shape.n && args.y.dim(2) == w.shape.k,
            "transposed head linear of [{}, {}] by [{}, {}]", args.x.dim(1), args.x.dim(2), w.shape.n,
            w.shape.k);
  const std::int64_t m = args.x.dim(0);
  if (m == 0) return;
  ThreadPool& threads = exec.threads();
  const std::size_t thread_bytes = align_scratch(transposed_scratch_bytes(w.shape.n));
  std::byte* team_scratch = exec.scratch(thread_bytes * static_cast<std::size_t>(threads.num_threads()));
  const std::int64_t k_blocks = ceil_div(w.shape.k, kBlockK);
  const auto run = tier.transposed[static_cast<std::size_t>(decoder_of(w.shape))];
  threads.parallel_for(heads * k_blocks, [&](std::int64_t i, int thread) {
    const std::int64_t head = i / k_blocks;
    const MatmulTask group = group_task(w, head);
    run({.codes = group.codes,
         .scales = group.scales,
         .layout = group.layout,
         .n = w.shape.n,
         .k = w.shape.k,
         .k_block = i % k_blocks,
         .x = args.x.f32() + head * args.x.stride[1],
         .x_stride = args.x.stride[0],
         .m = m,
         .y = args.y.f32() + head * args.y.stride[1],
         .y_stride = args.y.stride[0],
         .scratch = team_scratch + static_cast<std::size_t>(thread) * thread_bytes});
  });
}

}  // namespace nibble::kernels::cpu
