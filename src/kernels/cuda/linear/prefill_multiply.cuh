// What the warpgroups of prefill.cu do with the stages of a ring: sums of one tile. Scales that are float32
// are multiplied with part sums, the others are in the operand already.
#pragma once

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/linear/prefill_tile.cuh"

namespace nibble::kernels::cuda {

// Narrow scales and plain formats: two sets of A registers take turns, so that one is decoded while the
// tensor cores read the other.
template <Format kFormat, class C>
__device__ __forceinline__ void multiply_folded(const PrefillArgs& args, const Ring& ring, RingState& state,
                                                const Blocks& blocks, Sums<C>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_tile = warp / 4 * 4 * C::kTilesM + warp % 4;
#pragma unroll
  for (int i = 0; i < C::kTilesM; ++i) clear(sums[i]);
  int before = -1;  // the stage to let go
  for (int block = blocks.begin; block < blocks.end; block += C::kBlocks) {
    std::byte* stage = ring.stages + state.stage * C::kStageBytes;
    mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
    const int count = min(C::kBlocks, blocks.end - block);
#pragma unroll
    for (int b = 0; b < C::kBlocks; ++b) {
      if (b >= count) break;
      const std::uint64_t inputs = k_major(shared_address(stage + b * C::kTokens * kInputRowBytes));
#pragma unroll
      for (int i = 0; i < C::kTilesM; ++i) {
        // These codes are operands as they are: not to be loaded while the last ones are read.
        if constexpr (kFormat == Format::bf16) wgmma_wait<C::kPending>();
        LaneCodes<kFormat> codes;
        codes.load(stage_codes<C>(stage, first_tile + 4 * i) + b * block_bytes(kFormat), lane);
        LaneScales<kFormat == Format::nvfp4 ? Format::nvfp4 : Format::mxfp4> scales;
        if constexpr (has_narrow_scales(kFormat)) {
          scales.load(stage_scales<C>(stage, first_tile + 4 * i) + b * scale_block_bytes(kFormat), lane);
        }
#pragma unroll
        for (int part = 0; part < C::kParts; ++part) {
          std::uint32_t a[4][4];
          wgmma_wait<C::kPending>();
          // The last stage is read no more once its last group, and not only the one before, is done.
          const bool is_read = (b * C::kTilesM + i) * C::kParts + part == C::kPending;
          if (is_read && before >= 0 && lane == 0) mbarrier_arrive(barrier_at(ring.drained, before));
#pragma unroll
          for (int step = 0; step < 4; ++step) {
            RowOperands operands{};
            if constexpr (has_narrow_scales(kFormat)) operands = scales.operands(step);
            decode_step(codes, step, operands, a[step], part == 1);
          }
          wgmma_fence();
#pragma unroll
          for (int step = 0; step < 4; ++step) {
            wgmma_bf16(sums[i], a[step], inputs + static_cast<std::uint64_t>(2 * step), 1);
          }
          wgmma_commit();
        }
      }
    }
    before = state.stage;
    state.advance(C::kStages);
  }
  wgmma_wait<0>();
  if (before >= 0 && lane == 0) mbarrier_arrive(barrier_at(ring.drained, before));
}

// What a lane reads of a row tile for one scale group: the scales of its rows, and their zeros as operands.
struct GroupScales {
  float scale[2];
  RowOperands zeros;
};
template <Format kFormat, class C>
__device__ __forceinline__ GroupScales load_group(const PackedWeight& w, std::byte* stage, int tile,
                                                  int group_of_stage, int lane) {
  const int at = group_of_stage * kTileRows + lane / 4;
  const auto* scales = reinterpret_cast<const float*>(stage_scales<C>(stage, tile));
  GroupScales group{.scale = {scales[at], scales[at + 8]}, .zeros = no_zeros<kFormat>()};
  if (C::kTileZeroBytes != 0 && w.zeros_offset != 0) {
    const auto* zeros = reinterpret_cast<const std::int8_t*>(stage_zeros<C>(stage, tile));
    group.zeros = {.low = zero_operand<kFormat>(zeros[at]), .high = zero_operand<kFormat>(zeros[at + 8])};
  }
  return group;
}
template <int kCount>
__device__ __forceinline__ void add_scaled(const float (&scale)[2], const float (&part)[kCount],
                                           float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = fmaf(scale[i / 2 % 2], part[i], sums[i]);
}

// Both blocks of a stage that share their scales, as one part: half as many additions outside the tensor
// cores, and the second block is decoded while the first is multiplied. No branches here
// (docs/kernels/linear.md).
template <Format kFormat, class C>
__device__ __forceinline__ void multiply_shared_scales(const PackedWeight& w, std::byte* stage, int tile,
                                                       int lane, float (&sums)[C::kTokens / 2]) {
  constexpr int kBlocks = 2;
  float part[C::kTokens / 2];
  std::uint32_t a[kBlocks][4][4];
  const GroupScales group = load_group<kFormat, C>(w, stage, tile, 0, lane);
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    LaneCodes<kFormat> codes;
    codes.load(stage_codes<C>(stage, tile) + b * block_bytes(kFormat), lane);
#pragma unroll
    for (int step = 0; step < 4; ++step) decode_step(codes, step, group.zeros, a[b][step]);
    const std::uint64_t inputs = k_major(shared_address(stage + b * C::kTokens * kInputRowBytes));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_bf16(part, a[b][step], inputs + static_cast<std::uint64_t>(2 * step), b + step == 0 ? 0 : 1);
    }
    wgmma_commit();
  }
  wgmma_wait<0>();
  add_scaled(group.scale, part, sums);
}

// Wide scales: part sums per scale group (or per stage or block, if the group is longer).
template <Format kFormat, class C>
__device__ __forceinline__ void multiply_grouped(const PrefillArgs& args, const Ring& ring, RingState& state,
                                                 const Blocks& blocks, Sums<C>& sums) {
  const PackedWeight& w = args.w[0];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int tile = static_cast<int>(threadIdx.x) / 32;
  const bool block_scales = scales_whole_blocks(w);
  constexpr bool kHasRoom = C::kGroups == 2 && C::kBlocks == 2;  // in registers, for two blocks
  float part[C::kTokens / 2];
  clear(sums[0]);
  for (int block = blocks.begin; block < blocks.end; block += C::kBlocks) {
    std::byte* stage = ring.stages + state.stage * C::kStageBytes;
    mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
    const int count = min(C::kBlocks, blocks.end - block);
    const int first_group = scale_group(w, block * 2);
    int b = 0;
    if constexpr (kHasRoom) {
      if (count == C::kBlocks && scale_group(w, (block + count) * 2 - 1) == first_group) {
        multiply_shared_scales<kFormat, C>(w, stage, tile, lane, sums[0]);
        b = count;
      }
    }
    for (; b < count; ++b) {
      const std::uint64_t inputs = k_major(shared_address(stage + b * C::kTokens * kInputRowBytes));
      LaneCodes<kFormat> codes;
      codes.load(stage_codes<C>(stage, tile) + b * block_bytes(kFormat), lane);
      std::uint32_t a[4][4];
      GroupScales groups[2];
#pragma unroll
      for (int chunk = 0; chunk < 2; ++chunk) {
        const int group = scale_group(w, (block + b) * 2 + chunk) - first_group;
        groups[chunk] = load_group<kFormat, C>(w, stage, tile, group, lane);
        decode_step(codes, 2 * chunk, groups[chunk].zeros, a[2 * chunk]);
        decode_step(codes, 2 * chunk + 1, groups[chunk].zeros, a[2 * chunk + 1]);
      }
      wgmma_fence();
      wgmma_bf16(part, a[0], inputs, 0);
      wgmma_bf16(part, a[1], inputs + 2, 1);
      if (!block_scales) {
        wgmma_commit();
        wgmma_wait<0>();
        add_scaled(groups[0].scale, part, sums[0]);
        wgmma_fence();
      }
      wgmma_bf16(part, a[2], inputs + 4, block_scales ? 1 : 0);
      wgmma_bf16(part, a[3], inputs + 6, 1);
      wgmma_commit();
      wgmma_wait<0>();
      add_scaled(groups[1].scale, part, sums[0]);
    }
    if (lane == 0) mbarrier_arrive(barrier_at(ring.drained, state.stage));
    state.advance(C::kStages);
  }
}

}  // namespace nibble::kernels::cuda
