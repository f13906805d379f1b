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

// What one lane multiplies of half a block: k 2t, 2t + 1 of each group of eight.
struct InputChunk {
  float v[8];
};
// `column`: of the half block, plus 2 t.
__device__ __forceinline__ InputChunk load_chunk(const float* x, const std::int32_t* permutation, int column,
                                                 int k, bool pairs_aligned) {
  InputChunk chunk;
  if (pairs_aligned && permutation == nullptr && column + 26 <= k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = *reinterpret_cast<const float2*>(x + column + 8 * i);
      chunk.v[2 * i] = pair.x, chunk.v[2 * i + 1] = pair.y;
    }
    return chunk;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = column + i / 2 * 8 + i % 2;
    const int kk = permutation != nullptr ? permutation[at] : at;
    chunk.v[i] = kk >= 0 && kk < k ? x[kk] : 0.0F;
  }
  return chunk;
}

// Writes a chunk of half block `half` (two to a block), rounded.
__device__ __forceinline__ void store_chunk(uint4* inputs, int half, int t, int token, int tokens,
                                            const InputChunk& chunk) {
  inputs[(half * tokens + token) * 4 + t] = {
      round_pair(chunk.v[0], chunk.v[1]), round_pair(chunk.v[2], chunk.v[3]),
      round_pair(chunk.v[4], chunk.v[5]), round_pair(chunk.v[6], chunk.v[7])};
}

}  // namespace nibble::kernels::cuda
