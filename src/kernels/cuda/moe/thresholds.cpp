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

MoeKernel choose_moe_kernel(const MoeParams& p) noexcept {
  // Both products work on the same tiles and pass hidden values on in one form.
  if (p.gate.format != p.down.format || p.inputs != p.hidden) return MoeKernel::decode;
  const float per_expert =
      static_cast<float>(p.m) * static_cast<float>(p.topk) / static_cast<float>(p.num_experts);
  MoeKernel kernel = MoeKernel::decode;
  for (const MoeThreshold& row : kThresholds) {
    const bool holds =
        row.format == p.gate.format && row.inputs == p.hidden && per_expert >= row.pairs_per_expert;
    if (holds) kernel = row.kernel;
  }
  return kernel;
}

}  // namespace nibble::kernels::cuda::moe
