// Declares the kernels that the matmul_*.cpp files of this folder instantiate.
#pragma once

#include "kernels/cpu/avx2/decode.h"
#include "kernels/cpu/generic/matmul.h"

namespace nibble::kernels::cpu::generic {

extern template void matmul<avx2::Simd, avx2::DecodeF32>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeF16>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeBf16>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeFp8>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeMxfp4>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeNvfp4>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt8>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt8Zeros>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt8ActOrder>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt4>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt4Zeros>(const MatmulTask&);
extern template void matmul<avx2::Simd, avx2::DecodeInt4ActOrder>(const MatmulTask&);
extern template void transposed<avx2::Simd, avx2::DecodeF32>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeF16>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeBf16>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeFp8>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeMxfp4>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeNvfp4>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt8>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt8Zeros>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt8ActOrder>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt4>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt4Zeros>(const TransposedTask&);
extern template void transposed<avx2::Simd, avx2::DecodeInt4ActOrder>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
