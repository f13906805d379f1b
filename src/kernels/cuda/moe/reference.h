// Routed experts one value after another, in float32: slow, and simple enough to be believed.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

// hidden [m * topk, gate.n]: silu(gate x) * (up x) of every slot with an expert here.
void launch_reference_first(const MoeParams& p, float* hidden, cudaStream_t stream);

// p.partial [m * topk, down.n]: weight * down hidden.
void launch_reference_second(const MoeParams& p, const float* hidden, cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
