// The AVX-512 (float32 operands) tier. Kernels are instantiated one format per translation unit.
#pragma once

#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::avx512 {

const Tier& tier();

}  // namespace nibble::kernels::cpu::avx512
