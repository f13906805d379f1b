#include "kernels/cpu/avx512/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx512::Simd, avx512::DecodeInt8>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt8>(const TransposedTask&);
template void matmul<avx512::Simd, avx512::DecodeInt8Zeros>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt8Zeros>(const TransposedTask&);
template void matmul<avx512::Simd, avx512::DecodeInt8ActOrder>(const MatmulTask&);
template void transposed<avx512::Simd, avx512::DecodeInt8ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
