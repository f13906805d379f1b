// Products of FP8 activations on FP8 tensor cores.
#pragma once

#include "kernels/cuda/linear/product.h"

namespace nibble::kernels::cuda {

// Whether the weight can be multiplied as E4M3: FP8 with scales of rows or of multiples of 128 columns.
bool can_multiply_fp8(const PackedWeight& w);

// Launch::scratch of launch_fp8_product.
std::size_t fp8_scratch_bytes(const PackedWeight& w, int m);

// As launch_prefill_product, with x quantised to E4M3 in groups of 128 inputs (exactly, if it was already).
void launch_fp8_product(const Product& p, const PackedWeight* up, const Launch& launch);

}  // namespace nibble::kernels::cuda
