// Shared memory of a decode block.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/moe/decode_formats.h"
#include "kernels/cuda/moe/route.cuh"
#include "kernels/cuda/moe/stage_tokens.cuh"

namespace nibble::kernels::cuda::moe {

// Ring stages. More would fit where tokens are few, and slow memory down (docs/kernels/moe_w4a16.md).
inline constexpr int kMaxDepth = 5;
inline constexpr int kTokenPadBytes = 16;    // keeps the rows of a fragment apart in the banks
inline constexpr int kSharedLimit = 232448;  // of a block on sm_90

// Compute warps, and k64 blocks of both row tiles in a ring stage: codes, then narrow scales.
template <Format F>
struct Stage {
  static constexpr int kBlocks = format_bits(F) <= 8 ? 16 : 8;
  static constexpr int kWarps = F == Format::mxfp4 ? 16 : 8;
  static constexpr int kBlocksPerWarp = kBlocks / kWarps;
  static constexpr int kHalfCodes = kBlocks * block_bytes(F);
  static constexpr int kHalfScales = kBlocks * scale_block_bytes(F);
  static constexpr int kBytes = 2 * (kHalfCodes + kHalfScales);
};

// Tokens of one product, a share for each compute warp.
struct TokenArea {
  int token_row;      // bytes of one token's share of a warp
  int second_tokens;  // from the tokens as gate wants them to those as up does; 0 = the same
  int warp_tokens;    // bytes of all of a warp's tokens
};

// Barriers, each of 8 bytes, by number.
struct Bars {
  static constexpr int kFull = 0;                   // [kMaxDepth] stage has arrived
  static constexpr int kEmpty = kFull + kMaxDepth;  // [kMaxDepth] stage has been read
  static constexpr int kSumsFull = kEmpty + kMaxDepth;
  static constexpr int kSumsEmpty = kSumsFull + 2;
  static constexpr int kHidden = kSumsEmpty + 2;  // hidden values of all blocks are there
  static constexpr int kWritten = kHidden + 1;    // the other finishing warp has written its hidden values
  static constexpr int kCount = kWritten + 1;
};

// Offsets into shared memory.
struct DecodeSmem {
  int depth;        // ring stages
  int tile_tokens;  // at most kDecodeTileTokens
  TokenArea first;
  TokenArea second;
  int bars;
  int sums;
  int tokens;
  int ring;
  int bytes;
};

template <Format F>
TokenArea token_area(int num_blocks, int tile_tokens, bool two_orders) {
  using S = Stage<F>;
  const int stages = (num_blocks + S::kBlocks - 1) / S::kBlocks;
  const int token_row = stages * S::kBlocksPerWarp * kTokenBlockBytes + kTokenPadBytes;
  return {.token_row = token_row,
          .second_tokens = two_orders ? tile_tokens * token_row : 0,
          .warp_tokens = (two_orders ? 2 : 1) * tile_tokens * token_row};
}

template <Format F>
DecodeSmem decode_smem(const MoeParams& p, unsigned products, int tile_tokens) {
  using S = Stage<F>;
  DecodeSmem s{};
  const auto round = [](int v, int to) { return (v + to - 1) / to * to; };
  s.tile_tokens = tile_tokens;
  if ((products & kFirst) != 0) {
    s.first = token_area<F>(p.gate.num_blocks, tile_tokens, p.gate.permutation_offset != 0);
  }
  if ((products & kSecond) != 0) s.second = token_area<F>(p.down.num_blocks, tile_tokens, false);
  s.bars = round(static_cast<int>(sizeof(BlockRoute)), 16);
  s.sums = round(s.bars + Bars::kCount * 8, 128);
  s.tokens = s.sums + 2 * S::kWarps * 2 * kWarp * static_cast<int>(sizeof(float4));
  s.ring = round(s.tokens + S::kWarps * std::max(s.first.warp_tokens, s.second.warp_tokens), 128);
  s.depth = std::min(kMaxDepth, (kSharedLimit - s.ring) / S::kBytes);
  const int work = p.route.tiles == nullptr ? sort_work_words(p.m * slots_of_token(p), p.num_experts) : 0;
  s.bytes = s.ring + std::max(s.depth * S::kBytes, work * 4);
  return s;
}

// As many tokens a tile, up to `wanted`, as leave room for a ring.
template <Format F>
DecodeSmem plan_smem(const MoeParams& p, unsigned products, int wanted) {
  constexpr int kWantedDepth = 2;
  DecodeSmem smem = decode_smem<F>(p, products, wanted);
  for (int tokens = wanted - 1; tokens > 0 && (smem.depth < kWantedDepth || smem.bytes > kSharedLimit);
       --tokens) {
    smem = decode_smem<F>(p, products, tokens);
  }
  return smem;
}

}  // namespace nibble::kernels::cuda::moe
