// The whole MoE: which kernels run for a batch, their scratch memory and their launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

// What hidden values go through before down multiplies them (quant::ActivationFormat).
enum class Hidden : std::uint8_t { plain, fp8, int8 };

// Scratch of one call; p needs its sizes and weights only.
std::size_t scratch_bytes(const MoeParams& p, Hidden hidden);

// y += experts' outputs. Fills in p's route, h, h_f32 and partial from `scratch` (256-byte aligned).
void launch_fused_moe(MoeParams p, Hidden hidden, std::byte* scratch, int num_sms, cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
