// Activations in shared memory as B fragments of mma.m16n8k16: [block of 64 k][half][token][t] of 16 bytes, a
// lane's two registers of two steps.
#pragma once

#include "kernels/cuda/fragment.cuh"

namespace nibble::kernels::cuda {

// B fragments of a block of k: the lane's four steps.
struct BlockInputs {
  uint4 halves[2];
};

__device__ __forceinline__ BlockInputs load_inputs(const uint4* inputs, int block, int m, int lane) {
  BlockInputs b{};
  if (lane / 4 < m) {
    const uint4* at = inputs + (block * 2 * m + lane / 4) * 4 + lane % 4;
    b.halves[0] = at[0];
    b.halves[1] = at[4 * m];
  }
  return b;
}

// Eight inputs of a token, one of b0 or b1 of a step for all t.
struct InputOctet {
  float v[8];
};
__device__ __forceinline__ InputOctet load_octet(const float* x, const std::int32_t* permutation, int column,
                                                 int k, bool quads_aligned) {
  InputOctet octet;
  if (quads_aligned && permutation == nullptr && column + 8 <= k) {
    const float4 low = *reinterpret_cast<const float4*>(x + column);
    const float4 high = *reinterpret_cast<const float4*>(x + column + 4);
    octet.v[0] = low.x, octet.v[1] = low.y, octet.v[2] = low.z, octet.v[3] = low.w;
    octet.v[4] = high.x, octet.v[5] = high.y, octet.v[6] = high.z, octet.v[7] = high.w;
    return octet;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int kk = permutation != nullptr ? permutation[column + i] : column + i;
    octet.v[i] = kk >= 0 && kk < k ? x[kk] : 0.0F;
  }
  return octet;
}

// Writes octet `octet` of a token (block octet / 8, step octet / 2 % 4, register octet % 2), rounded.
__device__ __forceinline__ void store_octet(std::uint32_t* inputs, int octet, int token, int tokens,
                                            const InputOctet& values) {
  std::uint32_t* at = inputs + (octet / 4 * tokens + token) * 16 + octet % 4;
#pragma unroll
  for (int t = 0; t < 4; ++t) at[t * 4] = round_pair(values.v[2 * t], values.v[2 * t + 1]);
}

}  // namespace nibble::kernels::cuda
