// The shape of a prefill block, its units of work, and the warp that fills its ring of weights and tokens.
#pragma once

#include <cstddef>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/moe/prefill_tokens.cuh"

namespace nibble::kernels::cuda::moe {

inline constexpr int kGroupTiles = 4;  // row tiles of one wgmma
inline constexpr int kFillWarps = 4;

// A block of G computing warpgroups and one that fills: more where few tokens leave registers free and memory
// is the limit. Each computing warp has a row tile of either half of a unit.
template <Format F, Input I, int G>
struct BlockShape {
  static constexpr int kWarps = G * 4;
  static constexpr int kComputeThreads = kWarps * kWarp;
  static constexpr int kThreads = kComputeThreads + kFillWarps * kWarp;
  // Sums apart, of scale groups or of quantised tokens, take the registers of some tokens.
  static constexpr bool kWide = has_wide_scales(F);
  static constexpr int kTileTokens = G != 2                     ? kMiddleTileTokens
                                     : I == Input::fp8 || kWide ? kPrefillFewerTokens
                                                                : kPrefillTileTokens;
  // Registers a thread, of those that all threads begin with: 168 where there are 384 threads, 96 of 640.
  static constexpr int kFillRegisters = G == 2 ? 40 : 56;
  static constexpr int kComputeRegisters = G == 2 ? 232 : 104;
  static_assert(kFillWarps * kWarp * kFillRegisters + kComputeThreads * kComputeRegisters <=
                kThreads * (65536 / kThreads / 8 * 8));
  static constexpr int kUnitTiles = 2 * kWarps;  // row tiles of a unit, of both halves
  // k64 blocks of a ring stage: one where two are so many bytes that few stages fit.
  static constexpr int kStageBlocks =
      I == Input::fp8 || format_bits(F) == 4 || (format_bits(F) == 8 && G == 2) ? 2 : 1;
  // Wide scales: of every part of a stage, columns which are summed apart, those of the rows and then their
  // zero points.
  static constexpr int kMaxParts = kStageBlocks * (kBlockK / kChunkK);
  static constexpr int kPartScales = kTileRows * 4;
  static constexpr int kPartZeros = kWide && F != Format::fp8 ? kTileRows : 0;
  static constexpr int kSlotCodes = kStageBlocks * block_bytes(F);
  static constexpr int kSlotScales =
      kWide ? kMaxParts * (kPartScales + kPartZeros) : kStageBlocks * scale_block_bytes(F);
  static constexpr int kStagePanels = I == Input::bf16 ? kStageBlocks : kStageBlocks / 2;
  static constexpr int kStageTokens = kStagePanels * kTileTokens * kPanelBytes;
  static constexpr int kStageCodes = kUnitTiles * kSlotCodes;
  static constexpr int kStageScales = kUnitTiles * kSlotScales;
  static constexpr int kStageTokenScales = I == Input::fp8 ? kTileTokens * 4 : 0;
  static constexpr int kStageBytes = kStageTokens + kStageCodes + kStageScales + kStageTokenScales;
  // Of hidden values: a word per warp and token, two floats per pair of warpgroups and token.
  static constexpr int kMaxima = kWarps * kPrefillTileTokens * 4;
  static constexpr int kGroupScales = G / 2 * kPrefillTileTokens * 8;
  static constexpr int kSharedLimit = 232448;
  static constexpr int kDepth = (kSharedLimit - kMaxima - kGroupScales - 256) / kStageBytes;
  // Offsets into shared memory.
  static constexpr int kCodes = kDepth * kStageTokens;
  static constexpr int kScales = kCodes + kDepth * kStageCodes;
  static constexpr int kTokenScales = kScales + kDepth * kStageScales;
  static constexpr int kMaximaAt = kTokenScales + kDepth * kStageTokenScales;
  static constexpr int kGroupScalesAt = kMaximaAt + kMaxima;
  static constexpr int kBars = kGroupScalesAt + kGroupScales;
  static constexpr int kBytes = kBars + 2 * kDepth * 8;
  static_assert(kBytes <= kSharedLimit);
};

// Units of the grid: all row units of a tile of tokens, then the next tile; block i takes i, i + grid, ...
struct PrefillContext {
  const Tile* tiles;
  const PackedWeight* weights[2];  // of the halves
  const std::byte* tokens;
  const float* token_scales;
  int num_blocks;
  int num_steps;   // ring stages of a unit
  int part_shift;  // wide scales: chunks of a part, as a power of two
  int panels;
  int row_units;
  int num_units;
};

// The block's units in turn; the tile of the next one is asked for early.
struct UnitCursor {
  const PrefillContext& c;
  int unit;
  Tile next;

  __device__ __forceinline__ explicit UnitCursor(const PrefillContext& context)
      : c(context), unit(static_cast<int>(blockIdx.x)), next(tile_of(unit)) {}
  [[nodiscard]] __device__ __forceinline__ bool done() const { return unit >= c.num_units; }
  [[nodiscard]] __device__ __forceinline__ int row_unit() const { return unit % c.row_units; }
  // This unit's tile, once.
  __device__ __forceinline__ Tile take() {
    const Tile tile = next;
    next = tile_of(unit + static_cast<int>(gridDim.x));
    return tile;
  }
  __device__ __forceinline__ void advance() { unit += static_cast<int>(gridDim.x); }

 private:
  [[nodiscard]] __device__ __forceinline__ Tile tile_of(int number) const {
    return number < c.num_units ? c.tiles[number / c.row_units] : Tile{};
  }
};

// Row tile of a warp's half.
template <bool kFirst, int G>
__device__ __forceinline__ int prefill_row_tile(int row_unit, int warp, int half) {
  constexpr int kWarps = G * kGroupTiles;
  return kFirst ? row_unit * kWarps + warp
                : row_unit * 2 * kWarps + warp / kGroupTiles * 2 * kGroupTiles + half * kGroupTiles +
                      warp % kGroupTiles;
}

template <int kDepth>
struct RingPosition {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kDepth) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class B>
__device__ __forceinline__ std::uint32_t full_barrier(std::uint32_t shared, int stage) {
  return shared + B::kBars + 8 * stage;
}
template <class B>
__device__ __forceinline__ std::uint32_t empty_barrier(std::uint32_t shared, int stage) {
  return shared + B::kBars + 8 * (B::kDepth + stage);
}

// The longest parts of a stage, at most 2^max_shift chunks, inside which no row's scale changes.
__device__ inline int part_shift(const PackedWeight& w, int max_shift) {
  int shift = 0;
  while (shift < max_shift && (w.scale_groups == 1 || w.chunks_per_scale % (2 << shift) == 0)) ++shift;
  return shift;
}

// Row tiles of a unit that one filling warp copies: kGroupTiles neighbours at a time.
template <Format F, Input I, bool kFirst, int G>
struct FillSlots {
  using B = BlockShape<F, I, G>;
  static constexpr int kGroups = 2 * G / kFillWarps;
  // Of a row tile's scales; wide ones: of one part.
  static constexpr int kPieces = B::kWide               ? B::kPartScales / kPieceBytes
                                 : has_narrow_scales(F) ? B::kSlotScales / kPieceBytes
                                                        : 1;

  const std::byte* codes[kGroups];   // of the first row tile, this lane's piece
  const std::byte* scales[kGroups];  // of row tile lane / kPieces, this lane's piece
  int last[kGroups];  // row tiles behind the first. Past the end any do: nobody uses the products

  static __device__ __forceinline__ int slot_of(int warp, int group) {
    return (warp * kGroups + group) * kGroupTiles;
  }
  static __device__ __forceinline__ const PackedWeight& weight_of(const PrefillContext& c, int warp,
                                                                  int group) {
    return *c.weights[slot_of(warp, group) / (G * kGroupTiles)];
  }

  __device__ __forceinline__ void locate(const PrefillContext& c, int expert, int row_unit, int warp,
                                         int lane) {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int slot = slot_of(warp, i);
      const PackedWeight& w = weight_of(c, warp, i);
      const int end = w.num_tiles - 1;
      const int first =
          min(prefill_row_tile<kFirst, G>(row_unit, slot % (G * kGroupTiles), slot / (G * kGroupTiles)), end);
      last[i] = end - first;
      codes[i] = tile_address(w, expert, first).codes + lane * kPieceBytes;
      // Wide scales: two sets of lanes take turns at parts.
      const int scale_tile = B::kWide ? lane / kPieces % kGroupTiles : lane / kPieces;
      scales[i] = tile_address(w, expert, min(first + scale_tile, end)).scales + lane % kPieces * kPieceBytes;
    }
  }

  // Copies blocks [block, block + blocks) of every row tile, the next ones, into a stage.
  __device__ __forceinline__ void copy(const PrefillContext& c, std::uint32_t stage_codes,
                                       std::uint32_t stage_scales, int block, int blocks, int warp,
                                       int lane) {
    constexpr int kBytesAtOnce = kWarp * kPieceBytes;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int slot = slot_of(warp, i);
      const std::int64_t stride = weight_of(c, warp, i).tile_code_bytes;
      std::uint32_t to = stage_codes + slot * B::kSlotCodes + lane * kPieceBytes;
#pragma unroll
      for (int j = 0; j < kGroupTiles; ++j) {
        const std::byte* from = codes[i] + min(j, last[i]) * stride;
#pragma unroll
        for (int at = 0; at < B::kSlotCodes; at += kBytesAtOnce) {
          if (at < block_bytes(F) || blocks == B::kStageBlocks) copy_piece(to + at, from + at);
        }
        to += B::kSlotCodes;
      }
      codes[i] += B::kSlotCodes;
      if constexpr (has_narrow_scales(F)) {
        if (lane < kGroupTiles * kPieces && lane % kPieces < blocks * (kPieces / B::kStageBlocks)) {
          copy_piece(stage_scales + slot * B::kSlotScales + lane * kPieceBytes, scales[i]);
        }
        scales[i] += B::kSlotScales;
      } else if constexpr (B::kWide) {
        copy_parts(weight_of(c, warp, i), scales[i], stage_scales + slot * B::kSlotScales, block, blocks,
                   c.part_shift, lane);
      }
    }
  }

 private:
  // Wide scales and zero points of the parts of blocks [block, block + blocks).
  __device__ __forceinline__ void copy_parts(const PackedWeight& w, const std::byte* from, std::uint32_t to,
                                             int block, int blocks, int shift, int lane) const {
    constexpr int kChunks = kBlockK / kChunkK;  // of a block
    const int parts = (blocks * kChunks + (1 << shift) - 1) >> shift;
    const std::uint32_t slot = to + lane / kPieces % kGroupTiles * B::kSlotScales;
    const int piece = lane % kPieces;
    for (int part = lane / (kGroupTiles * kPieces); part < parts; part += kWarp / (kGroupTiles * kPieces)) {
      const int group = scale_group(w, block * kChunks + (part << shift));
      copy_piece(slot + part * B::kPartScales + piece * kPieceBytes, from + group * B::kPartScales);
      if (B::kPartZeros != 0 && w.zeros_offset != 0 && piece == 0) {
        copy_piece(slot + B::kMaxParts * B::kPartScales + part * B::kPartZeros,
                   from + w.zeros_offset + group * B::kPartZeros);
      }
    }
  }
};

// The filling warps: weights with cp.async (bulk copies of a row tile's share would be too small: they cost
// some 75 cycles each), tokens with bulk copies.
template <Format F, Input I, bool kFirst, int G>
__device__ void fill_ring(const PrefillContext& c, std::uint32_t shared, int warp, int lane) {
  using B = BlockShape<F, I, G>;
  FillSlots<F, I, kFirst, G> slots;
  RingPosition<B::kDepth> to;
  int filled = 0;
  for (UnitCursor at(c); !at.done(); at.advance()) {
    const Tile tile = at.take();
    slots.locate(c, tile.expert, at.row_unit(), warp, lane);
    const int atoms = padded_tokens(tile) / kAtomTokens;
    const std::byte* tokens = c.tokens + std::int64_t{tile.begin} / kAtomTokens * c.panels * kAtomBytes;
    const float* token_scales = c.token_scales + std::int64_t{tile.begin} * c.panels;
    for (int step = 0; step < c.num_steps; ++step) {
      const int block = step * B::kStageBlocks;
      const int blocks = min(B::kStageBlocks, c.num_blocks - block);
      const std::uint32_t full = full_barrier<B>(shared, to.stage);
      if (filled >= B::kDepth) mbarrier_wait(empty_barrier<B>(shared, to.stage), to.parity ^ 1);
      if (warp == 0 && lane == 0) {
        const int token_bytes = (I == Input::bf16 ? blocks : 1) * atoms * kAtomBytes;
        const int scale_bytes = I == Input::bf16 ? 0 : atoms * kAtomTokens * 4;
        mbarrier_expect(full, token_bytes + scale_bytes);
        bulk_copy(shared + to.stage * B::kStageTokens, tokens, token_bytes, full);
        tokens += token_bytes;
        if (I == Input::fp8) {
          bulk_copy(shared + B::kTokenScales + to.stage * B::kStageTokenScales, token_scales, scale_bytes,
                    full);
          token_scales += atoms * kAtomTokens;
        }
      }
      __syncwarp();
      slots.copy(c, shared + B::kCodes + to.stage * B::kStageCodes,
                 shared + B::kScales + to.stage * B::kStageScales, block, blocks, warp, lane);
      arrive_with_pieces(full);
      ++filled;
      to.advance();
    }
  }
}

}  // namespace nibble::kernels::cuda::moe
