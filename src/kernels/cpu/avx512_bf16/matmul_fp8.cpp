#include "kernels/cpu/avx512_bf16/instances.h"

namespace nibble::kernels::cpu::avx512_bf16 {

template void matmul<avx512::DecodeFp8>(const MatmulTask&);

}  // namespace nibble::kernels::cpu::avx512_bf16
