// The whole MoE: scratch memory and launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/moe/params.h"
#include "kernels/cuda/moe/thresholds.h"

namespace nibble::kernels::cuda::moe {

// Whether the decode products can take p.shared along: a few tokens, one format of plain order for all.
bool can_take_shared(const MoeParams& p);

// Scratch of one call; p needs its sizes and weights only.
std::size_t scratch_bytes(const MoeParams& p, MoeKernel kernel);

// y += experts' outputs. Fills in p's route, h, h_f32 and partial from `scratch` (256-byte aligned).
void launch_fused_moe(const MoeParams& p, MoeKernel kernel, std::byte* scratch, int num_sms,
                      cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
