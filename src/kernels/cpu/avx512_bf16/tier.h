// The AVX-512 tier of processors with AVX512_BF16: bf16 products where weights are exact in bf16.
#pragma once

#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::avx512_bf16 {

const Tier& tier();

}  // namespace nibble::kernels::cpu::avx512_bf16
