// Which kernel multiplies a batch, as data: measured on one H100.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

enum class MoeKernel : std::uint8_t {
  decode,  // mma.sync, bf16, up to 8 tokens per tile (decode.cuh); every format
  // wgmma, bf16, four warpgroups, up to 32 tokens per tile (prefill.cuh); not f16 and f32, no act-order
  middle,
  prefill,      // wgmma, bf16, two warpgroups, up to 128 tokens per tile; FP8 and integers: 112
  middle_fp8,   // the same two in E4M3; MXFP4 and FP8 with E4M3 inputs and hidden values
  prefill_fp8,  // up to 112 tokens per tile
};
std::string_view moe_kernel_name(MoeKernel kernel) noexcept;

// From so many (token, expert) pairs per expert on, on average, and so many in all, weights of a format go to
// `kernel`; the last row that holds counts, none: decode.
struct MoeThreshold {
  Format format;
  Hidden inputs;  // of gate and up and of down: what they are quantised to
  float pairs_per_expert;
  MoeKernel kernel;
  std::int32_t pairs = 0;
};
std::span<const MoeThreshold> moe_thresholds() noexcept;

// How a weight's scales lie; WeightShape and PackedWeight both say.
struct WeightGroups {
  std::int64_t per_row;  // wide scales of a row, else 0
  std::int64_t chunks;   // of kChunkK columns, that share one
  bool act_order;
};
// `wanted`, or what stands in for it where scales lie in a way it does not take.
MoeKernel usable_moe_kernel(MoeKernel wanted, const WeightGroups& groups) noexcept;

// For sizes and formats of p alone, whatever is routed where.
MoeKernel choose_moe_kernel(const MoeParams& p) noexcept;

}  // namespace nibble::kernels::cuda::moe
