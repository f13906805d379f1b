#include "kernels/cuda/moe/thresholds.h"

#include <array>

namespace nibble::kernels::cuda::moe {
namespace {

constexpr std::array kThresholds = {
    MoeThreshold{Format::mxfp4, Hidden::plain, 5.0F, MoeKernel::middle},
    MoeThreshold{Format::mxfp4, Hidden::plain, 28.0F, MoeKernel::prefill},
    MoeThreshold{Format::mxfp4, Hidden::fp8, 5.0F, MoeKernel::middle_fp8},
    MoeThreshold{Format::mxfp4, Hidden::fp8, 28.0F, MoeKernel::prefill_fp8},
    MoeThreshold{Format::nvfp4, Hidden::plain, 5.0F, MoeKernel::middle},
    MoeThreshold{Format::nvfp4, Hidden::plain, 28.0F, MoeKernel::prefill},
    MoeThreshold{Format::nvfp4, Hidden::fp8, 5.0F, MoeKernel::middle},
    MoeThreshold{Format::nvfp4, Hidden::fp8, 28.0F, MoeKernel::prefill},
    MoeThreshold{Format::bf16, Hidden::plain, 4.0F, MoeKernel::prefill},
    MoeThreshold{Format::fp8, Hidden::plain, 3.5F, MoeKernel::middle},
    MoeThreshold{Format::fp8, Hidden::plain, 25.0F, MoeKernel::prefill},
    MoeThreshold{Format::fp8, Hidden::fp8, 2.5F, MoeKernel::middle_fp8},
    MoeThreshold{Format::fp8, Hidden::fp8, 20.0F, MoeKernel::prefill_fp8},
    MoeThreshold{Format::int8, Hidden::plain, 3.5F, MoeKernel::middle},
    MoeThreshold{Format::int8, Hidden::plain, 24.0F, MoeKernel::prefill},
    // Decode is slow on INT4, at whatever number of tokens: but middle takes its time to sort.
    MoeThreshold{Format::int4, Hidden::plain, 0.0F, MoeKernel::middle, 16},
    MoeThreshold{Format::int4, Hidden::plain, 25.0F, MoeKernel::prefill},
};

}  // namespace

std::string_view moe_kernel_name(MoeKernel kernel) noexcept {
  switch (kernel) {
    case MoeKernel::decode: return "decode";
    case MoeKernel::middle: return "middle";
    case MoeKernel::prefill: return "prefill";
    case MoeKernel::middle_fp8: return "middle, FP8 products";
    case MoeKernel::prefill_fp8: return "prefill, FP8 products";
  }
  return "";
}

std::span<const MoeThreshold> moe_thresholds() noexcept { return kThresholds; }

MoeKernel usable_moe_kernel(MoeKernel wanted, const WeightGroups& groups) noexcept {
  // Decode alone permutes activations, while it rounds them.
  if (groups.act_order) return MoeKernel::decode;
  constexpr std::int64_t kStageChunks = 128 / kChunkK;
  if (groups.per_row <= 1 || groups.chunks % kStageChunks == 0) return wanted;
  // FP8 products are sums of whole ring stages.
  if (wanted == MoeKernel::middle_fp8) return MoeKernel::middle;
  if (wanted == MoeKernel::prefill_fp8) return MoeKernel::prefill;
  return wanted;
}

MoeKernel choose_moe_kernel(const MoeParams& p) noexcept {
  // Both products work on the same tiles and pass hidden values on in one form.
  if (p.gate.format != p.down.format || p.inputs != p.hidden) return MoeKernel::decode;
  const std::int64_t pairs = std::int64_t{p.m} * p.topk;
  const float per_expert = static_cast<float>(pairs) / static_cast<float>(p.num_experts);
  MoeKernel kernel = MoeKernel::decode;
  for (const MoeThreshold& row : kThresholds) {
    const bool holds = row.format == p.gate.format && row.inputs == p.hidden &&
                       per_expert >= row.pairs_per_expert && pairs >= row.pairs;
    if (holds) kernel = row.kernel;
  }
  for (const PackedWeight* w : {&p.gate, &p.up, &p.down}) {
    kernel = usable_moe_kernel(
        kernel,
        {.per_row = w->scale_groups, .chunks = w->chunks_per_scale, .act_order = w->permutation_offset != 0});
  }
  return kernel;
}

}  // namespace nibble::kernels::cuda::moe
