// Declares the kernels that the matmul_*.cpp files of this folder instantiate.
#pragma once

#include "kernels/cpu/avx512_bf16/matmul.h"

namespace nibble::kernels::cpu::avx512_bf16 {

extern template void matmul<PairsBf16>(const MatmulTask&);
extern template void matmul<avx512::DecodeFp8>(const MatmulTask&);
extern template void matmul<PairsMxfp4>(const MatmulTask&);
extern template void matmul<PairsNvfp4>(const MatmulTask&);

}  // namespace nibble::kernels::cpu::avx512_bf16
