// The ends of the MoE: quantised hidden values, and the sum over a token's experts.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

// h_f32 rows, quantised and dequantised as bf16 into h.
void launch_quantize_hidden(const MoeParams& p, std::int64_t rows, cudaStream_t stream);

// y += the token's partial outputs in ascending expert order.
void launch_combine(const MoeParams& p, cudaStream_t stream);

}  // namespace nibble::kernels::cuda::moe
