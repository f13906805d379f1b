// Brings a warp's slice of k of a tile's tokens into shared memory, as B fragments of mma.m16n8k16: of
// each token and k64 block 128 bytes, in which lane t of a row finds the 16 values of its four k16 steps.
#pragma once

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

inline constexpr int kWarp = 32;
inline constexpr int kTokenBlockBytes = 128;
inline constexpr int kChunksPerBlock = 8;  // of 16 bytes: two k16 steps of one t

// Where column c of a row lies in B fragment order.
__device__ __forceinline__ int fragment_position(int c) {
  const int r = c % 16;
  return c / kBlockK * kBlockK + r % 8 / 2 * 16 + c % kBlockK / 16 * 4 + r / 8 * 2 + r % 2;
}

// Columns of one warp and where they go.
struct TokenSlice {
  int block_begin;  // blocks block_begin + i * block_step
  int block_step;
  int blocks;
  std::byte* out;
  int token_row;  // bytes between tokens
  int lane;

  // Chunk i of a token: its first column and its place. The chunk's words hold columns begin + 8 w and one
  // more.
  [[nodiscard]] __device__ __forceinline__ int column(int i) const {
    return (block_begin + i / kChunksPerBlock * block_step) * kBlockK + i % 2 * 32 + i / 2 % 4 * 2;
  }
  __device__ __forceinline__ void store(int token, int i, const std::uint32_t (&words)[4]) const {
    std::byte* to =
        out + token * token_row + i / kChunksPerBlock * kTokenBlockBytes + i / 2 % 4 * 32 + i % 2 * 16;
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// Rounds activations. kPairs: rows are 8-byte aligned and k even. permutation: input of each column, or null.
template <bool kPairs>
__device__ void stage_x(const MoeParams& p, const std::int32_t* sorted, const Tile& tile,
                        const std::int32_t* permutation, const TokenSlice& slice) {
  const int k = p.gate.k;
  const auto value = [&](const float* x, int c) {
    if (permutation != nullptr) c = permutation[c];
    return c >= 0 && c < k ? x[c] : 0.0F;
  };
  for (int token = 0; token < tile.count; ++token) {
    const float* x = p.x + std::int64_t{sorted[tile.begin + token] / slots_of_token(p)} * p.x_stride;
#pragma unroll 4
    for (int i = slice.lane; i < slice.blocks * kChunksPerBlock; i += kWarp) {
      const int begin = slice.column(i);
      std::uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int c = begin + 8 * w;
        if (kPairs) {
          const float2 pair = c < k ? *reinterpret_cast<const float2*>(x + c) : float2{0.0F, 0.0F};
          words[w] = round_pair(pair.x, pair.y);
        } else {
          words[w] = round_pair(value(x, c), value(x, c + 1));
        }
      }
      slice.store(token, i, words);
    }
  }
}

// Hidden values are bf16 in fragment order already; with act-order they are gathered.
__device__ inline void stage_h(const MoeParams& p, const Tile& tile, const std::int32_t* permutation,
                               const TokenSlice& slice) {
  const int chunks = slice.blocks * kChunksPerBlock;
  for (int i = slice.lane; i < tile.count * chunks; i += kWarp) {
    const int token = i / chunks;
    const int chunk = i % chunks;
    const std::uint16_t* row = p.h + (tile.begin + token) * p.h_row;
    if (permutation == nullptr) {
      const int block = slice.block_begin + chunk / kChunksPerBlock * slice.block_step;
      const auto* from = reinterpret_cast<const uint4*>(row + block * kBlockK) + chunk % kChunksPerBlock;
      *reinterpret_cast<uint4*>(slice.out + token * slice.token_row + chunk * 16) = __ldcg(from);
      continue;
    }
    const auto value = [&](int c) -> std::uint32_t {
      const int input = permutation[c];
      return input < 0 ? 0 : __ldcg(row + fragment_position(input));
    };
    std::uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
      const int c = slice.column(chunk) + 8 * w;
      words[w] = value(c) | value(c + 1) << 16;
    }
    slice.store(token, chunk, words);
  }
}

}  // namespace nibble::kernels::cuda::moe
