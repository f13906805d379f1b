// What a decode block does: its share of the units, and where their weights lie.
//
// A unit is a tile of tokens times a pair of row tiles: gate and up rows of one index in the first product,
// two neighbouring row tiles of down in the second.
#pragma once

#include <cstddef>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/moe/params.h"

namespace nibble::kernels::cuda::moe {

// Where a warp is in its block's units.
struct Cursor {
  int unit;
  int tile;
  int pair;
};

// A block's share of the units: [begin, shared_end) of shared experts' tiles, then [routed_begin, end).
struct BlockUnits {
  int pairs;  // units of a tile
  int begin;
  int shared_end;
  int routed_begin;
  int end;

  [[nodiscard]] __device__ __forceinline__ Cursor cursor(int unit) const {
    return {unit, unit / pairs, unit % pairs};
  }
  // On from the shared experts to the others.
  __device__ __forceinline__ void skip(Cursor& at) const {
    if (at.unit == shared_end) at = cursor(routed_begin);
  }
  [[nodiscard]] __device__ __forceinline__ Cursor start() const {
    Cursor at = cursor(begin);
    skip(at);
    return at;
  }
  __device__ __forceinline__ void advance(Cursor& at) const {
    step(at);
    skip(at);
  }
  __device__ __forceinline__ void step(Cursor& at) const {
    ++at.unit;
    if (++at.pair == pairs) {
      at.pair = 0;
      ++at.tile;
    }
  }
};

// The shared experts' part, which is known before tokens are sorted: a tile each, of all tokens.
__device__ __forceinline__ BlockUnits shared_units(int num_shared, int pairs) {
  const std::int64_t units = std::int64_t{num_shared} * pairs;
  return {.pairs = pairs,
          .begin = static_cast<int>(units * blockIdx.x / gridDim.x),
          .shared_end = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x),
          .routed_begin = 0,
          .end = 0};
}

// Of all tiles. Blocks that have one shared unit more are not those that have one more of the others.
__device__ __forceinline__ BlockUnits block_units(int num_shared, int num_tiles, int pairs) {
  BlockUnits part = shared_units(num_shared, pairs);
  const int first = num_shared * pairs;
  const std::int64_t units = std::int64_t{num_tiles - num_shared} * pairs;
  const int rank = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  part.routed_begin = first + static_cast<int>(units * rank / gridDim.x);
  part.end = first + static_cast<int>(units * (rank + 1) / gridDim.x);
  return part;
}

// One product of a block.
struct DecodeContext {
  const Tile* tiles;
  const std::int32_t* sorted;
  int num_blocks;
  BlockUnits units;
};

// Row tile of the pair's halves; the second may lie past the end.
template <bool kFirstProduct>
__device__ __forceinline__ int row_tile(int pair, int half) {
  return kFirstProduct ? pair : 2 * pair + half;
}

// The routed experts' weights of a pair's halves.
template <bool kFirstProduct>
__device__ __forceinline__ const PackedWeight& routed_weight(const MoeParams& p, int half) {
  return kFirstProduct ? (half == 0 ? p.gate : p.up) : p.down;
}

// Units of a tile.
template <bool kFirstProduct>
__device__ __forceinline__ int pairs_of(const MoeParams& p) {
  return kFirstProduct ? p.gate.num_tiles : (p.down.num_tiles + 1) / 2;
}

// The start of an expert's row tile, `half` of a pair. (By value: a weight chosen by reference would be read
// through generic addresses.)
template <bool kFirstProduct>
__device__ __forceinline__ TileAddress expert_tile(const MoeParams& p, int expert, int half, int tile) {
  const int shared = p.shared.count;
  if (expert >= shared) return tile_address(routed_weight<kFirstProduct>(p, half), expert - shared, tile);
  if (!kFirstProduct) return tile_address(p.shared.down, 0, tile);
  return tile_address(half == 0 ? p.shared.gate : p.shared.up, 0, expert * p.gate.num_tiles + tile);
}
// The k64 block of that row tile that the expert begins with.
template <bool kFirstProduct>
__device__ __forceinline__ int first_block(const MoeParams& p, int expert) {
  return !kFirstProduct && expert < p.shared.count ? expert * p.down.num_blocks : 0;
}
// The factors of rows g and g + 8 of the row tile; 1 past the last tile.
template <bool kFirstProduct>
__device__ __forceinline__ void load_factors(const MoeParams& p, int expert, int half, int tile, int lane,
                                             float (&factors)[2]) {
  factors[0] = 1.0F;
  factors[1] = 1.0F;
  if (tile >= routed_weight<kFirstProduct>(p, half).num_tiles) return;
  int offset = routed_weight<kFirstProduct>(p, half).factors_offset;
  if (expert < p.shared.count) {
    offset = !kFirstProduct ? p.shared.down.factors_offset
             : half == 0    ? p.shared.gate.factors_offset
                            : p.shared.up.factors_offset;
  }
  if (offset == 0) return;
  const auto* rows =
      reinterpret_cast<const float*>(expert_tile<kFirstProduct>(p, expert, half, tile).scales + offset);
  factors[0] = rows[lane / 4];
  factors[1] = rows[lane / 4 + 8];
}

}  // namespace nibble::kernels::cuda::moe
