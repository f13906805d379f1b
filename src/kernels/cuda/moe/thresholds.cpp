#include "kernels/cuda/moe/thresholds.h"

#include <algorithm>
#include <array>

namespace nibble::kernels::cuda::moe {
namespace {

constexpr std::array kThresholds = {
    MoeThreshold{Format::mxfp4, 8.0F, MoeKernel::middle},
    MoeThreshold{Format::mxfp4, 48.0F, MoeKernel::prefill},
    MoeThreshold{Format::nvfp4, 8.0F, MoeKernel::middle},
    MoeThreshold{Format::nvfp4, 48.0F, MoeKernel::prefill},
};

MoeKernel kernel_of(Format format, float pairs_per_expert) {
  MoeKernel kernel = MoeKernel::decode;
  for (const MoeThreshold& row : kThresholds) {
    if (row.format == format && pairs_per_expert >= row.pairs_per_expert) kernel = row.kernel;
  }
  return kernel;
}

}  // namespace

std::span<const MoeThreshold> moe_thresholds() noexcept { return kThresholds; }

MoeKernel choose_moe_kernel(const MoeParams& p, Hidden hidden) noexcept {
  // Quantising hidden values takes whole rows of them, which prefill keeps in pieces.
  if (hidden != Hidden::plain) return MoeKernel::decode;
  const float per_expert =
      static_cast<float>(p.m) * static_cast<float>(p.topk) / static_cast<float>(p.num_experts);
  // Both products work on the same tiles: the one for fewer tokens decides.
  return std::min(kernel_of(p.gate.format, per_expert), kernel_of(p.down.format, per_expert));
}

}  // namespace nibble::kernels::cuda::moe
