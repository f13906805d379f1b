// Which kernel multiplies a batch, as data: measured on one H100.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

enum class MoeKernel : std::uint8_t {
  decode,   // mma.sync, up to 8 tokens per tile (decode.cuh); every format
  middle,   // wgmma, four warpgroups, up to 32 tokens per tile (prefill.cuh); 4-bit floats
  prefill,  // wgmma, two warpgroups, up to 128 tokens per tile
};

// From so many (token, expert) pairs per expert on, on average, a format's weights go to `kernel`; the last
// row that holds counts.
struct MoeThreshold {
  Format format;
  float pairs_per_expert;
  MoeKernel kernel;
};
std::span<const MoeThreshold> moe_thresholds() noexcept;

// For sizes and formats of p alone, whatever is routed where.
MoeKernel choose_moe_kernel(const MoeParams& p, Hidden hidden) noexcept;

}  // namespace nibble::kernels::cuda::moe
