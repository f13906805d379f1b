// Declares the kernels that the matmul_*.cpp files of this folder instantiate.
#pragma once

#include "kernels/cpu/avx512/decode.h"
#include "kernels/cpu/generic/matmul.h"

namespace nibble::kernels::cpu::generic {

extern template void matmul<avx512::Simd, avx512::DecodeF32>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeF16>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeBf16>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeFp8>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeMxfp4>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeNvfp4>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt8>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt8Zeros>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt8ActOrder>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt4>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt4Zeros>(const MatmulTask&);
extern template void matmul<avx512::Simd, avx512::DecodeInt4ActOrder>(const MatmulTask&);
extern template void transposed<avx512::Simd, avx512::DecodeF32>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeF16>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeBf16>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeFp8>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeMxfp4>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeNvfp4>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt8>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt8Zeros>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt8ActOrder>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt4>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt4Zeros>(const TransposedTask&);
extern template void transposed<avx512::Simd, avx512::DecodeInt4ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
