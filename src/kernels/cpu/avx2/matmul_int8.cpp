#include "kernels/cpu/avx2/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx2::Simd, avx2::DecodeInt8>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt8>(const TransposedTask&);
template void matmul<avx2::Simd, avx2::DecodeInt8Zeros>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt8Zeros>(const TransposedTask&);
template void matmul<avx2::Simd, avx2::DecodeInt8ActOrder>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeInt8ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
