#include "kernels/cpu/avx2/instances.h"

namespace nibble::kernels::cpu::generic {

template void matmul<avx2::Simd, avx2::DecodeF32>(const MatmulTask&);
template void transposed<avx2::Simd, avx2::DecodeF32>(const TransposedTask&);

}  // namespace nibble::kernels::cpu::generic
