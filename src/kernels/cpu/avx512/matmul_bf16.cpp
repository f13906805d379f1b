#include "kernels/cpu/avx512/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx512::Simd, avx512::DecodeBf16>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeBf16>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
