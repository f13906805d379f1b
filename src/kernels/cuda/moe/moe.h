// The whole MoE: scratch memory and launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/moe/params.h"
#include "kernels/cuda/moe/thresholds.h"

namespace nibble::kernels::cuda::moe {

// Which launches of the MoE to make, for timing them apart.
enum Parts : unsigned { kSort = 1, kFirst = 2, kSecond = 4, kCombine = 8, kAllParts = 15 };

// Scratch of one call; p needs its sizes and weights only.
std::size_t scratch_bytes(const MoeParams& p, MoeKernel kernel);

// y += experts' outputs. Fills in p's route, h, h_f32 and partial from `scratch` (256-byte aligned).
void launch_fused_moe(const MoeParams& p, MoeKernel kernel, std::byte* scratch, int num_sms,
                      cudaStream_t stream, unsigned parts = kAllParts);

}  // namespace nibble::kernels::cuda::moe
