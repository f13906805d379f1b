// The ring of weights, and the warp that fills it with the copy engine, running ahead across units and from
// one product to the next.
#pragma once

#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/moe/decode_smem.cuh"
#include "kernels/cuda/moe/decode_units.cuh"

namespace nibble::kernels::cuda::moe {

// Where a warp is in the ring.
struct RingCursor {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int depth) {
    if (++stage == depth) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The ring in shared memory: stages, and two barriers for each.
struct Ring {
  std::byte* data;
  std::uint32_t bars;
  int depth;
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full(int stage) const {
    return bars + 8 * (Bars::kFull + stage);
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t empty(int stage) const {
    return bars + 8 * (Bars::kEmpty + stage);
  }
};

// The filling warp's side of the ring.
struct RingWriter {
  Ring ring;
  RingCursor to = {};
  int filled = 0;

  [[nodiscard]] __device__ __forceinline__ bool has_room() const { return filled < ring.depth; }
  __device__ __forceinline__ void wait_empty() const {
    if (filled >= ring.depth) mbarrier_wait(ring.empty(to.stage), to.parity ^ 1);
  }
  __device__ __forceinline__ void advance() {
    ++filled;
    to.advance(ring.depth);
  }
};

// One product's weights, by a whole warp: codes and then narrow scales of either row tile are four copies a
// stage, each by a lane of its own.
template <Format F, bool kFirstProduct>
class Filler {
 public:
  using S = Stage<F>;

  __device__ Filler(const MoeParams& p, RingWriter& writer, const BlockUnits& shared, int lane)
      : p_(p), writer_(writer), lane_(lane), at_(shared.cursor(shared.begin)) {
    const bool codes = lane < 2;
    const int half = lane % 2;
    bytes_of_block_ = codes ? block_bytes(F) : scale_block_bytes(F);
    to_ = codes ? half * S::kHalfCodes : 2 * S::kHalfCodes + half * S::kHalfScales;
  }

  // Stages of shared experts, as many as there is room for.
  __device__ __forceinline__ void fill_ahead(const BlockUnits& shared) {
    while (at_.unit < shared.shared_end) {
      if (!fill_unit<true>(at_.tile)) return;
      shared.step(at_);
    }
  }

  // All that is left of the block's units.
  __device__ __forceinline__ void fill_rest(const DecodeContext& c) {
    if (block_ == 0) c.units.skip(at_);
    while (at_.unit < c.units.end) {
      fill_unit<false>(at_.tile < p_.shared.count ? at_.tile : c.tiles[at_.tile].expert);
      c.units.advance(at_);
    }
  }

 private:
  __device__ __forceinline__ void find_source(int expert) {
    halves_ = row_tile<kFirstProduct>(at_.pair, 1) < routed_weight<kFirstProduct>(p_, 1).num_tiles ? 2 : 1;
    const TileAddress low = expert_tile<kFirstProduct>(p_, expert, 0, row_tile<kFirstProduct>(at_.pair, 0));
    const TileAddress high = expert_tile<kFirstProduct>(p_, expert, 1, row_tile<kFirstProduct>(at_.pair, 1));
    const TileAddress mine = lane_ % 2 == 0 ? low : high;
    from_ = (lane_ < 2 ? mine.codes : mine.scales) + first_block<kFirstProduct>(p_, expert) * bytes_of_block_;
    copies_ = lane_ < (has_narrow_scales(F) ? 4 : 2) && lane_ % 2 < halves_;
  }

  // The stages of a unit. kAhead: those that there is room for; false if that is not the whole unit.
  template <bool kAhead>
  __device__ __forceinline__ bool fill_unit(int expert) {
    const int num_blocks = routed_weight<kFirstProduct>(p_, 0).num_blocks;
    if (block_ == 0) find_source(expert);
    for (; block_ < num_blocks; block_ += S::kBlocks) {
      if (kAhead && !writer_.has_room()) return false;
      const int count = min(S::kBlocks, num_blocks - block_);
      if (!kAhead) writer_.wait_empty();
      const std::uint32_t bar = writer_.ring.full(writer_.to.stage);
      if (lane_ == 0) mbarrier_expect(bar, halves_ * count * (block_bytes(F) + scale_block_bytes(F)));
      if (copies_) {
        const std::uint32_t out = shared_address(writer_.ring.data) + writer_.to.stage * S::kBytes + to_;
        bulk_copy(out, from_, count * bytes_of_block_, bar, kEvictFirst);
      }
      from_ += count * bytes_of_block_;
      writer_.advance();
    }
    block_ = 0;
    return true;
  }

  const MoeParams& p_;
  RingWriter& writer_;
  int lane_;
  Cursor at_;
  int block_ = 0;  // of the unit
  int halves_ = 0;
  int bytes_of_block_;  // what this lane copies
  int to_;              // in a stage
  bool copies_ = false;
  const std::byte* from_ = nullptr;
};

}  // namespace nibble::kernels::cuda::moe
