// The AVX2 tier. Kernels are instantiated one format per translation unit.
#pragma once

#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::avx2 {

const Tier& tier();

}  // namespace nibble::kernels::cpu::avx2
