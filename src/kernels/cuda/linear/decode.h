// Products for few tokens.
#pragma once

#include "kernels/cuda/linear/product.h"

namespace nibble::kernels::cuda {

inline constexpr int kMaxDecodeTokens = 8;

bool can_decode(const PackedWeight& w, int m, int num_sms);

// y (+)= x w^T; or with `up`, of the same shape and format as p.w and without act-order's being different:
// y = silu(x w^T) * (x up^T), never accumulating.
void launch_decode_product(const Product& p, const PackedWeight* up, const Launch& launch);

// Both products in one launch: they have their x in common, and weights that differ in n and values alone.
bool can_pair(const PackedWeight& first, const PackedWeight& second);
void launch_decode_pair(const Product& first, const Product& second, const Launch& launch);

}  // namespace nibble::kernels::cuda
