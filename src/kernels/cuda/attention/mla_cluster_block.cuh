// What a block of the small-batch kernel keeps in shared memory, its share of the work, and its loader.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/box_slots.cuh"
#include "kernels/cuda/attention/mla_cluster.h"
#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/attention/panels.cuh"
#include "kernels/cuda/elementwise/cache_codes.cuh"
#include "kernels/cuda/hopper/cluster.cuh"

namespace nibble::kernels::cuda::mla_cluster {

constexpr int kPanels = kMlaWidth / kPanelColumns;        // 9
constexpr int kValuePanels = kMlaLatent / kPanelColumns;  // 8
constexpr int kRopePanel = kValuePanels;
constexpr int kTileBytes = kPanels * kPanelBytes;
constexpr int kHeads = 16;  // of a block
constexpr int kConsumerWarps = 16;
constexpr int kConsumers = kConsumerWarps * 32;
constexpr int kThreads = kConsumers + 32;
constexpr int kConsumerBarrier = 1;
constexpr int kParts = 4;                  // the columns of the scores are shared out among so many warps
constexpr int kPartStride = kMlaTile + 8;  // floats: rows begin in different banks
constexpr int kBuffers = 2;
constexpr int kFp8Bytes = kMlaLatent + 4 + 2 * kMlaRope;  // of an entry

template <CacheCodes kCodes>
constexpr bool kIsFp8 = kCodes == CacheCodes::e4m3 || kCodes == CacheCodes::e5m2;

// bf16 tiles are read where they arrive; FP8 tiles arrive in `raw` and are decoded into the only buffer.
template <CacheCodes kCodes>
struct Tiles {
  alignas(1024) std::uint8_t kv[kBuffers][kTileBytes];
};
template <CacheCodes kCodes>
requires kIsFp8<kCodes>
struct Tiles<kCodes> {
  alignas(1024) std::uint8_t kv[1][kTileBytes];
  alignas(16) std::uint8_t raw[kBuffers][kMlaTile * kFp8Bytes];
  float scales[kMlaTile];
};

template <CacheCodes kCodes>
struct Shared {
  alignas(1024) std::uint8_t q[kPanels * kHeads * 128];
  Tiles<kCodes> tiles;
  alignas(1024) std::uint8_t p[kHeads * 128];  // probabilities [head][entry]
  float scores[kParts][kHeads][kPartStride];
  float2 exchange[kMlaMaxSplits][kHeads];  // maximum and sum of every split
  float factor[kHeads];
  std::uint64_t full[kBuffers];
  std::uint64_t empty[kBuffers];
};

// One query row and 16 of its heads; this block's share of the tiles it sees.
struct Work {
  std::int64_t row;
  int first_head;
  int split;
  int seq = -1;         // none: the row is no sequence's
  int num_visible = 0;  // entries the row sees
  int tile_begin = 0;
  int tile_end = 0;
};

__device__ inline Work work_of_block(const MlaCluster& launch) {
  const int cluster = static_cast<int>(blockIdx.x) / launch.splits;
  return {.row = cluster / launch.num_groups,
          .first_head = cluster % launch.num_groups * kHeads,
          .split = static_cast<int>(blockIdx.x) % launch.splits};
}

// Finds the row's sequence; a whole warp, which reads everything it needs at once.
__device__ inline void find_sequence(const MlaCluster& launch, Work& work) {
  const MlaLaunch& base = launch.base;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = base.cu_seqlens_q[0] + static_cast<int>(work.row);
  for (int first = 0; first < base.num_seqs; first += 32) {
    const int s = min(first + lane, base.num_seqs - 1);
    const int begin = base.cu_seqlens_q[s];
    const int end = base.cu_seqlens_q[s + 1];
    const int length = base.seq_lens[s];
    const unsigned found = __ballot_sync(0xFFFFFFFFU, begin <= row && row < end);
    if (found == 0) continue;
    const int at = __ffs(static_cast<int>(found)) - 1;
    work.seq = __shfl_sync(0xFFFFFFFFU, s, at);
    work.num_visible = max(0, __shfl_sync(0xFFFFFFFFU, length - (end - 1 - row), at));
    const int num_tiles = (work.num_visible + kMlaTile - 1) / kMlaTile;
    work.tile_begin = work.split * num_tiles / launch.splits;
    work.tile_end = (work.split + 1) * num_tiles / launch.splits;
    return;
  }
}

// Brings the block's tiles to shared memory; one warp.
template <CacheCodes kCodes>
__device__ inline void load_tiles(const MlaCluster& launch, const CUtensorMap& map, const Work& work,
                                  Shared<kCodes>& shared) {
  constexpr int kPanelCount = kIsFp8<kCodes> ? 1 : kPanels;
  const bool leader = threadIdx.x % 32 == 0;
  const std::uint64_t policy = launch.num_groups > 1 ? kEvictNormal : kEvictFirst;
  const int row_bytes = kIsFp8<kCodes> ? kFp8Bytes : 128;  // of a box in shared memory
  BoxSlots slots(launch.base, work.seq, min(work.tile_end * kMlaTile, work.num_visible), launch.box_rows);
  for (int tile = work.tile_begin; tile < work.tile_end; ++tile) {
    const int i = tile - work.tile_begin;
    const int buffer = i % kBuffers;
    const int begin = tile * kMlaTile;
    const int count = min(kMlaTile, work.num_visible - begin);
    const int num_boxes = (count + launch.box_rows - 1) / launch.box_rows;
    const auto box_bytes = static_cast<std::uint32_t>(launch.box_rows * row_bytes);
    const std::uint32_t full = shared_address(&shared.full[buffer]);
    // A fresh barrier passes a wait for phase 1.
    mbarrier_wait(shared_address(&shared.empty[buffer]), 1U ^ (static_cast<unsigned>(i / kBuffers) & 1U));
    if (leader) mbarrier_expect(full, static_cast<std::uint32_t>(num_boxes * kPanelCount) * box_bytes);
    for (int box = 0; box < num_boxes; ++box) {
      const int slot = slots.slot(begin + box * launch.box_rows);
      if (!leader) continue;
      const std::uint32_t offset = static_cast<std::uint32_t>(box) * box_bytes;
      if constexpr (kIsFp8<kCodes>) {
        bulk_copy(shared_address(shared.tiles.raw[buffer]) + offset,
                  static_cast<const std::uint8_t*>(launch.base.cache.data) + std::int64_t{slot} * kFp8Bytes,
                  box_bytes, full, policy);
      } else {
        for (int panel = 0; panel < kPanels; ++panel) {
          copy_box(shared_address(shared.tiles.kv[buffer]) + static_cast<std::uint32_t>(panel * kPanelBytes) +
                       offset,
                   map, panel * kPanelColumns, slot, full, policy);
        }
      }
    }
  }
}

}  // namespace nibble::kernels::cuda::mla_cluster
