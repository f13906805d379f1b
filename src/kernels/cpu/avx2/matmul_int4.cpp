#include "kernels/cpu/avx2/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx2::Simd, avx2::DecodeInt4>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt4>(const TransposedTask&);
template void matmul<avx2::Simd, avx2::DecodeInt4Zeros>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt4Zeros>(const TransposedTask&);
template void matmul<avx2::Simd, avx2::DecodeInt4ActOrder>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt4ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
