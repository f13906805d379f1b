// Rows of the CUDA table: topk_gate and fused_moe.
#include "kernels/cuda/ops.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/exec.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/moe/combine.h"
#include "kernels/cuda/moe/gate_product.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/moe/plan.h"
#include "kernels/cuda/moe/reference.h"
#include "kernels/cuda/moe/topk_gate.h"

namespace nibble::kernels::cuda {
namespace {

std::int32_t to_int32(std::int64_t value) {
  NIB_CHECK(value >= 0 && value <= INT32_MAX, "size {} does not fit the kernels' 32 bits", value);
  return static_cast<std::int32_t>(value);
}

// A row of rounded activations, twice with act-order, lies in shared memory beside a ring.
constexpr std::int64_t kMaxInputs = 32768;

moe::Hidden hidden_of(quant::ActivationFormat format) {
  switch (format) {
    case quant::ActivationFormat::none: return moe::Hidden::plain;
    case quant::ActivationFormat::fp8: return moe::Hidden::fp8;
    case quant::ActivationFormat::int8: return moe::Hidden::int8;
  }
  return moe::Hidden::plain;
}

void check_moe(const FusedMoeArgs& args) {
  NIB_CHECK(args.hidden.data == nullptr, "calibration, which sees hidden values, runs on the CPU");
  const WeightShape& w = args.gate.shape;
  NIB_CHECK(args.x.dim(1) == w.k && args.y.dim(1) == w.k && args.down.shape.n == w.k &&
                args.down.shape.k == w.n && args.up.shape.n == w.n && args.up.shape.k == w.k &&
                args.up.shape.format == w.format && args.up.shape.grouping == w.grouping,
            "experts [{}, {}] on x [{}, {}]", w.n, w.k, args.x.dim(0), args.x.dim(1));
  NIB_CHECK(w.k <= kMaxInputs && w.n <= kMaxInputs, "experts [{}, {}]; the kernels take up to {}", w.n, w.k,
            kMaxInputs);
}

// The router's product, in slices where that is faster.
void make_logits(CudaExec& cuda, const TopkGateArgs& args, TopkGateParams& params) {
  const PackedWeight gate = packed_weight(*args.gate);
  NIB_CHECK(gate.n == params.num_experts && gate.k == args.x.dim(1) && args.x.dim(0) == params.m,
            "router [{}, {}] on x [{}, {}] for {} experts", gate.n, gate.k, args.x.dim(0), args.x.dim(1),
            params.num_experts);
  if (!topk_gate_adds_slices(params) ||
      !gate_product_supports(gate, args.x.f32(), args.x.stride[0], params.m)) {
    return linear(cuda, {.x = args.x, .w = *args.gate, .y = args.logits, .precision = Precision::exact});
  }
  const int num_slices = gate_product_slices(gate, params.m, cuda.num_sms());
  const std::int64_t slice = std::int64_t{params.m} * params.num_experts;
  auto* partials = reinterpret_cast<float*>(
      cuda.scratch(static_cast<std::size_t>(num_slices) * static_cast<std::size_t>(slice) * sizeof(float)));
  launch_gate_product({.gate = gate,
                       .x = args.x.f32(),
                       .x_stride = args.x.stride[0],
                       .m = params.m,
                       .num_slices = num_slices,
                       .partials = partials},
                      cuda.stream());
  params.logits = partials;
  params.logits_stride = params.num_experts;
  params.num_slices = num_slices;
  params.slice_stride = slice;
}

// In pieces of the routed experts' size; count 0 where they don't divide so.
moe::SharedExperts make_shared(const FusedMoeArgs& args) {
  if (args.shared == nullptr) return {};
  const SharedExperts& shared = *args.shared;
  const std::int64_t n = args.gate.shape.n;
  const std::int64_t k = args.gate.shape.k;
  const std::int64_t count = shared.gate.shape.n / n;
  const auto fits = [&](const Weight& w, std::int64_t rows, std::int64_t columns) {
    return w.shape.num_groups == 1 && w.shape.n == rows && w.shape.k == columns &&
           w.shape.activations == args.gate.shape.activations;
  };
  const bool fit = fits(shared.gate, count * n, k) && fits(shared.up, count * n, k) &&
                   fits(shared.down, k, count * n) && (count == 1 || n % kBlockK == 0);
  if (!fit) return {};
  return {.count = to_int32(count),
          .gate = packed_weight(shared.gate),
          .up = packed_weight(shared.up),
          .down = packed_weight(shared.down)};
}

// All but what a kernel takes from scratch.
moe::MoeParams make_params(const FusedMoeArgs& args) {
  to_int32(args.x.dim(0) * args.topk);
  moe::MoeParams p{};
  p.x = args.x.f32();
  p.x_stride = args.x.stride[0];
  p.y = args.y.f32();
  p.y_stride = args.y.stride[0];
  p.ids = args.topk_ids;
  p.weights = args.topk_weights;
  p.m = to_int32(args.x.dim(0));
  p.topk = args.topk;
  p.num_experts = to_int32(args.gate.shape.num_groups);
  p.gate = packed_weight(args.gate);
  p.up = packed_weight(args.up);
  p.down = packed_weight(args.down);
  p.shared = make_shared(args);
  p.inputs = hidden_of(args.gate.shape.activations);
  p.hidden = hidden_of(args.down.shape.activations);
  return p;
}

}  // namespace

void topk_gate(Exec& exec, const TopkGateArgs& args) {
  const std::int64_t num_experts = args.logits.dim(1);
  NIB_CHECK(args.topk >= 1 && args.topk <= num_experts, "top {} of {} experts", args.topk, num_experts);
  NIB_CHECK(num_experts <= kMaxGateExperts, "{} experts; the gate kernel takes {}", num_experts,
            kMaxGateExperts);
  NIB_CHECK(args.n_group >= 1 && num_experts % args.n_group == 0, "{} experts in {} groups", num_experts,
            args.n_group);
  NIB_CHECK(args.n_group == 1 || (args.topk_group >= 1 && args.topk_group <= args.n_group),
            "top {} of {} groups", args.topk_group, args.n_group);
  if (args.logits.dim(0) == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  TopkGateParams params{.logits = args.logits.f32(),
                        .logits_stride = args.logits.stride[0],
                        .num_slices = 1,
                        .slice_stride = 0,
                        .correction_bias = args.correction_bias,
                        .topk_ids = args.topk_ids,
                        .topk_weights = args.topk_weights,
                        .m = to_int32(args.logits.dim(0)),
                        .num_experts = to_int32(num_experts),
                        .n_group = args.n_group,
                        .topk_group = args.topk_group,
                        .topk = args.topk,
                        .softmax = args.scoring == ScoringFunc::softmax,
                        .top2_sum = args.group_score == GroupScore::top2_sum,
                        .norm_topk_prob = args.norm_topk_prob,
                        .routed_scaling_factor = args.routed_scaling_factor};
  if (args.gate != nullptr) make_logits(cuda, args, params);
  launch_topk_gate(params, cuda.stream());
  check_launch("topk_gate");
}

void fused_moe(Exec& exec, const FusedMoeArgs& args) {
  check_moe(args);
  if (args.x.dim(0) == 0 || args.topk == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  moe::MoeParams p = make_params(args);
  NIB_CHECK(args.shared == nullptr || moe::can_take_shared(p),
            "shared experts [{}, {}] beside [{}, {}] on {} tokens", args.shared->gate.shape.n,
            args.shared->gate.shape.k, args.gate.shape.n, args.gate.shape.k, p.m);
  p.barrier = cuda.grid_barrier();
  const moe::MoeKernel kernel = moe::choose_moe_kernel(p);
  std::byte* scratch = cuda.scratch(moe::scratch_bytes(p, kernel));
  moe::launch_fused_moe(p, kernel, scratch, cuda.num_sms(), cuda.stream());
  check_launch("fused_moe");
}

bool takes_shared_experts(const FusedMoeArgs& args) {
  return args.x.dim(0) > 0 && args.topk > 0 && moe::can_take_shared(make_params(args));
}

void fused_moe_reference(Exec& exec, const FusedMoeArgs& args) {
  check_moe(args);
  const std::int64_t slots = args.x.dim(0) * args.topk;
  if (slots == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  const std::int64_t n = args.gate.shape.n;
  const std::int64_t k = args.gate.shape.k;
  auto* hidden =
      reinterpret_cast<float*>(cuda.scratch(static_cast<std::size_t>(slots * (n + k)) * sizeof(float)));
  moe::MoeParams p = make_params(args);
  p.partial = hidden + slots * n;
  moe::launch_reference_first(p, hidden, cuda.stream());
  if (p.hidden != moe::Hidden::plain) {
    const auto codes = p.hidden == moe::Hidden::fp8 ? ActivationCodes::fp8 : ActivationCodes::int8;
    const Rows rows{hidden, n};
    launch_quantize_activation(cuda.stream(), codes, rows, rows, slots, n);
  }
  moe::launch_reference_second(p, hidden, cuda.stream());
  moe::launch_combine(p, cuda.stream());
  check_launch("fused_moe_reference");
}

std::vector<Device::MoeKernelRow> moe_kernel_rows(const WeightShape& experts) {
  std::vector<Device::MoeKernelRow> rows{
      {.pairs_per_expert = 0.0F, .kernel = moe::moe_kernel_name(moe::MoeKernel::decode)}};
  const PackedLayout layout = packed_layout(experts);
  const moe::WeightGroups groups{.per_row = layout.scale_groups,
                                 .chunks = layout.chunks_per_scale,
                                 .act_order = experts.grouping.act_order};
  for (const moe::MoeThreshold& row : moe::moe_thresholds()) {
    const bool applies =
        row.format == static_cast<Format>(experts.format) && row.inputs == hidden_of(experts.activations);
    const moe::MoeKernel kernel = moe::usable_moe_kernel(row.kernel, groups);
    if (!applies || kernel == moe::MoeKernel::decode) continue;
    const float of_all = static_cast<float>(row.pairs) / static_cast<float>(experts.num_groups);
    rows.push_back(
        {.pairs_per_expert = std::max(row.pairs_per_expert, of_all), .kernel = moe::moe_kernel_name(kernel)});
  }
  return rows;
}

}  // namespace nibble::kernels::cuda
