// Which kernel multiplies a batch: measured on one H100, kept as data.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda::moe {

enum class MoeKernel : std::uint8_t {
  decode,   // mma.sync, 8 tokens per tile, weights streamed by warps (decode.cuh)
  prefill,  // wgmma, up to 128 tokens per tile (prefill.cuh)
};

// The kernel from so many (token, slot) pairs per expert on, on average.
struct Threshold {
  float pairs_per_expert;
  MoeKernel kernel;
};

// Ascending; the last row that is not above the batch's own figure counts.
std::span<const Threshold> thresholds(Format format) noexcept;

MoeKernel choose_kernel(Format format, std::int64_t num_pairs, std::int64_t num_experts) noexcept;

}  // namespace nibble::kernels::cuda::moe
