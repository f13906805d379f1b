#include "kernels/cuda/moe/thresholds.h"

#include <array>

namespace nibble::kernels::cuda::moe {
namespace {

constexpr std::array kThresholds = {
    MoeThreshold{Format::mxfp4, 3.0F, MoeKernel::prefill},
    MoeThreshold{Format::nvfp4, 3.0F, MoeKernel::prefill},
};

bool prefers_prefill(Format format, float pairs_per_expert) {
  for (const MoeThreshold& row : kThresholds) {
    if (row.format == format && pairs_per_expert >= row.pairs_per_expert) return true;
  }
  return false;
}

}  // namespace

std::span<const MoeThreshold> moe_thresholds() noexcept { return kThresholds; }

MoeKernel choose_moe_kernel(const MoeParams& p, Hidden hidden) noexcept {
  // Quantising hidden values takes whole rows of them, which prefill keeps in pieces.
  if (hidden != Hidden::plain) return MoeKernel::decode;
  const float per_expert = static_cast<float>(p.m) * static_cast<float>(p.topk) / static_cast<float>(p.num_experts);
  return prefers_prefill(p.gate.format, per_expert) && prefers_prefill(p.down.format, per_expert)
             ? MoeKernel::prefill
             : MoeKernel::decode;
}

}  // namespace nibble::kernels::cuda::moe
