// Products in float32 for many tokens, on the tensor cores: the router's of a prompt.
#pragma once

#include "kernels/cuda/linear/product.h"

namespace nibble::kernels::cuda {

// Whether it takes this product and is faster than launch_exact_product's kernel for few tokens.
bool takes_exact_prefill(const Product& p);

void launch_exact_prefill_product(const Product& p, const Launch& launch);

}  // namespace nibble::kernels::cuda
