// Products for many tokens.
#pragma once

#include "kernels/cuda/linear/product.h"

namespace nibble::kernels::cuda {

// Launch::scratch of launch_prefill_product.
std::size_t prefill_scratch_bytes(const PackedWeight& w, int num_matrices, int m);

// y (+)= x w^T; or with `up`, of the same shape, format and column order as p.w:
// y = silu(x w^T) * (x up^T), never accumulating. One group. bf16 operands.
void launch_prefill_product(const Product& p, const PackedWeight* up, const Launch& launch);
// Both products in one launch, where can_pair (decode.h) says so. Scratch of the first.
void launch_prefill_pair(const Product& first, const Product& second, const Launch& launch);

}  // namespace nibble::kernels::cuda
