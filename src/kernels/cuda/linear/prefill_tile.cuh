// The tile of prefill.cu's blocks: how large it is and by how many warps it is made for a format and a number
// of tokens, and where a stage of its ring has codes, scales and zeros.
#pragma once

#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/linear/tiles.cuh"

namespace nibble::kernels::cuda {

// kTokens: of a tile. kGated: a warpgroup's second 64 rows are the up projection of its first.
template <Format kFormat, int kTokensOf, bool kGatedOf>
struct Config {
  static constexpr int kTokens = kTokensOf;
  static constexpr bool kGated = kGatedOf;
  static constexpr bool kWide = has_wide_scales(kFormat);
  [[maybe_unused]] static constexpr int kParts = splits_weights(kFormat) ? 2 : 1;  // bf16 numbers of a weight
  // Four warpgroups of 64 rows hide the decoding best; the second set of sums of a scale group, or of a gated
  // product, fits the registers of two.
  static constexpr int kGroups = kGated || (kWide && kTokens > 64) ? 2 : 4;  // warpgroups that multiply
  static constexpr int kTilesM = kGated ? 2 : 1;                             // of 64 rows, per warpgroup
  static constexpr int kRows = kGroups * kTilesM * 64;
  static constexpr int kConsumers = kGroups * 128;
  static constexpr int kThreads = kConsumers + 128;  // and a warpgroup that copies
  // Registers are dealt out by role: what the copying warpgroup leaves of its share goes to the others. A
  // block starts with as many for every thread as its size allows, a multiple of 8.
  static constexpr int kStartRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kCopierRegisters = kGroups == 2 ? 56 : 32;
  static constexpr int kConsumerRegisters = kGroups == 2 ? 224 : 112;
  static_assert(kGroups * kConsumerRegisters + kCopierRegisters <= (kGroups + 1) * kStartRegisters,
                "more registers than the block has would be waited for without end");
  // Groups of wgmma a warp lets run on while it decodes; with four warpgroups others fill the gap.
  [[maybe_unused]] static constexpr int kPending = kGroups == 2 ? 1 : 0;
  static constexpr int kRowTiles = kRows / kTileRows;
  static constexpr int kOutputRows = kGated ? kRows / 2 : kRows;
  static constexpr int kBlocks = format_bits(kFormat) <= 8 ? 2 : 1;  // of k, in a stage
  static constexpr int kInputBytes = kBlocks * kTokens * kInputRowBytes;
  static constexpr int kTileCodeBytes = kBlocks * block_bytes(kFormat);
  static constexpr int kMaxGroups = kBlocks * (kBlockK / kChunkK);
  static constexpr int kTileScaleBytes =
      kWide ? kMaxGroups * kTileRows * 4 : kBlocks * scale_block_bytes(kFormat);
  static constexpr int kTileZeroBytes =
      kFormat == Format::int4 || kFormat == Format::int8 ? kMaxGroups * kTileRows : 0;
  static constexpr int kStageBytes =
      (kInputBytes + kRowTiles * (kTileCodeBytes + kTileScaleBytes + kTileZeroBytes) + 1023) / 1024 * 1024;
  static constexpr int kStages = std::min(8, kMaxRingBytes / kStageBytes);
  // A cluster's split over the ring: [token][row], so padded that a warp's stores meet no bank twice.
  static constexpr int kPartialStride = kRows + 4;
  static constexpr int kPartialBytes = kPartialStride * kTokens * 4;
  static constexpr int kRingBytes = std::max(kStages * kStageBytes, (kPartialBytes + 15) / 16 * 16);
  // Results on their way out, per warpgroup: [token][row], padded likewise.
  static constexpr int kOutTokens = 16;
  static constexpr int kOutStride = 64 + 4;
  static constexpr int kOutFloats = kOutTokens * kOutStride;
  static constexpr int kSharedBytes = kRingBytes + kGroups * kOutFloats * 4 + 1024;
  static_assert(kStages >= 2, "a pipeline has two stages at least");
  static_assert(kPending < kBlocks * kTilesM * kParts, "a stage is let go while the next one is multiplied");
  static_assert(!(kWide && kGated), "gated products of wide scales are two products");
};

// The grid's row tile in the product that it belongs to.
struct RowTile {
  bool second;
  int index;
};
template <class C>
__device__ __forceinline__ RowTile row_tile_of(const PrefillArgs& args, int grid_row_tile) {
  const bool second = !C::kGated && grid_row_tile >= args.first_row_tiles;
  return {.second = second, .index = grid_row_tile - (second ? args.first_row_tiles : 0)};
}
__device__ __forceinline__ float factor_of(const PrefillArgs& args, bool second, int row) {
  return second ? factor_of(args.w[1], row) : factor_of(args.w[0], row);
}

// Which matrix and which of its row tiles local row tile `i` is: [warpgroup][64 rows][16 rows].
template <class C>
struct LocalTile {
  int matrix;
  int tile;
};
template <class C>
__device__ __forceinline__ LocalTile<C> local_tile(const PrefillArgs& args, int grid_row_tile, int i) {
  const int group = i / (4 * C::kTilesM);
  const int of_group = i % (4 * C::kTilesM);
  if constexpr (C::kGated) {
    const int tile = grid_row_tile * (C::kOutputRows / kTileRows) + group * 4 + of_group % 4;
    return {.matrix = of_group / 4, .tile = min(tile, args.w[0].num_tiles - 1)};
  } else {
    const RowTile of = row_tile_of<C>(args, grid_row_tile);
    const int last = (of.second ? args.w[1].num_tiles : args.w[0].num_tiles) - 1;
    return {.matrix = of.second ? 1 : 0, .tile = min(of.index * C::kRowTiles + i, last)};
  }
}

template <class C>
__device__ __forceinline__ std::byte* stage_codes(std::byte* stage, int row_tile) {
  return stage + C::kInputBytes + row_tile * C::kTileCodeBytes;
}
template <class C>
__device__ __forceinline__ std::byte* stage_scales(std::byte* stage, int row_tile) {
  return stage + C::kInputBytes + C::kRowTiles * C::kTileCodeBytes + row_tile * C::kTileScaleBytes;
}
template <class C>
__device__ __forceinline__ std::byte* stage_zeros(std::byte* stage, int row_tile) {
  return stage + C::kInputBytes + C::kRowTiles * (C::kTileCodeBytes + C::kTileScaleBytes) +
         row_tile * C::kTileZeroBytes;
}

// Sums of a warpgroup's tile: [64 rows][tokens].
template <class C>
using Sums = float[C::kTilesM][C::kTokens / 2];

}  // namespace nibble::kernels::cuda
