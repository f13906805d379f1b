#include "kernels/cpu/avx512/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx512::Simd, avx512::DecodeInt4>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt4>(const TransposedTask&);
template void matmul<avx512::Simd, avx512::DecodeInt4Zeros>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt4Zeros>(const TransposedTask&);
template void matmul<avx512::Simd, avx512::DecodeInt4ActOrder>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt4ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
