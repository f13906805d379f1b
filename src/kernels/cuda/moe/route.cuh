// Sorting inside one block, for batches of few (token, slot) pairs: every block of a decode kernel does
// it for itself, which saves launches.
#pragma once

#include "kernels/cuda/moe/route.h"

namespace nibble::kernels::cuda::moe {

// What one block has sorted; in shared memory.
struct BlockRoute {
  std::int32_t ids[kMaxBlockSlots];
  std::int32_t sorted[kMaxBlockSlots];
  Tile tiles[kMaxBlockSlots];
  std::int32_t num_tiles;
};

// Few slots: ranks by comparing each with all.
__device__ inline void sort_by_comparing(BlockRoute& r, int num_slots, int tile_tokens) {
  const int slot = static_cast<int>(threadIdx.x);
  const std::int32_t id = slot < num_slots ? r.ids[slot] : -1;
  if (id >= 0) {
    int before = 0;  // of lower experts
    int same = 0;    // earlier slots of this expert
    int count = 0;   // all slots of this expert
    for (int i = 0; i < num_slots; ++i) {
      const std::int32_t other = r.ids[i];
      before += static_cast<int>(other >= 0 && other < id);
      same += static_cast<int>(other == id && i < slot);
      count += static_cast<int>(other == id);
    }
    const int at = before + same;
    r.sorted[at] = slot;
    // Marks the first entry of each tile with its size; others with 0.
    r.tiles[at].count = same % tile_tokens == 0 ? min(tile_tokens, count - same) : 0;
    r.tiles[at].expert = id;
  }
  __syncthreads();
  const int num_valid = __syncthreads_count(id >= 0);
  const int at = static_cast<int>(threadIdx.x);
  const Tile mine = at < num_valid ? r.tiles[at] : Tile{0, 0, 0};
  int index = 0;
  for (int i = 0; i < at && i < num_valid; ++i) index += static_cast<int>(r.tiles[i].count > 0);
  const int num_tiles = __syncthreads_count(mine.count > 0);
  if (mine.count > 0) r.tiles[index] = {mine.expert, at, mine.count};
  if (threadIdx.x == 0) r.num_tiles = num_tiles;
  __syncthreads();
}

// Inclusive scan of (a, b) over the block's first warp's chunks: begins[e] = entries of experts before e,
// tile_begins[e] likewise of tiles.
__device__ inline void scan_experts(const std::int32_t* counts, std::int32_t* begins,
                                    std::int32_t* tile_begins, int num_experts, int tile_tokens,
                                    std::int32_t* num_tiles) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= 32) return;
  const int chunk = (num_experts + 31) / 32;
  const int first = lane * chunk;
  const int last = min(num_experts, first + chunk);
  int entries = 0;
  int tiles = 0;
  for (int e = first; e < last; ++e) {
    entries += counts[e];
    tiles += (counts[e] + tile_tokens - 1) / tile_tokens;
  }
  const int own_entries = entries;
  const int own_tiles = tiles;
  for (int d = 1; d < 32; d *= 2) {
    const int e = __shfl_up_sync(0xFFFFFFFFU, entries, d);
    const int t = __shfl_up_sync(0xFFFFFFFFU, tiles, d);
    if (lane >= d) {
      entries += e;
      tiles += t;
    }
  }
  if (lane == 31) *num_tiles = tiles;
  entries -= own_entries;
  tiles -= own_tiles;
  for (int e = first; e < last; ++e) {
    begins[e] = entries;
    tile_begins[e] = tiles;
    entries += counts[e];
    tiles += (counts[e] + tile_tokens - 1) / tile_tokens;
  }
}

// More slots: counting sort; `work` has 3 * num_experts + num_slots words.
__device__ inline void sort_by_counting(BlockRoute& r, std::int32_t* work, int num_slots, int num_experts,
                                        int tile_tokens) {
  std::int32_t* counts = work;
  std::int32_t* begins = work + num_experts;
  std::int32_t* tile_begins = begins + num_experts;
  std::int32_t* bucket = tile_begins + num_experts;
  const int threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  for (int e = thread; e < num_experts; e += threads) counts[e] = 0;
  __syncthreads();
  for (int i = thread; i < num_slots; i += threads) {
    if (r.ids[i] >= 0) r.sorted[i] = atomicAdd(&counts[r.ids[i]], 1);  // any order within the expert
  }
  __syncthreads();
  scan_experts(counts, begins, tile_begins, num_experts, tile_tokens, &r.num_tiles);
  __syncthreads();
  for (int i = thread; i < num_slots; i += threads) {
    if (r.ids[i] >= 0) bucket[begins[r.ids[i]] + r.sorted[i]] = i;
  }
  __syncthreads();
  for (int i = thread; i < num_slots; i += threads) {
    const std::int32_t e = r.ids[i];
    if (e < 0) continue;
    int rank = 0;  // the order of atomics is not that of slots
    for (int j = begins[e]; j < begins[e] + counts[e]; ++j) rank += static_cast<int>(bucket[j] < i);
    r.sorted[begins[e] + rank] = i;
  }
  for (int e = thread; e < num_experts; e += threads) {
    for (int done = 0, t = tile_begins[e]; done < counts[e]; done += tile_tokens, ++t) {
      r.tiles[t] = {e, begins[e] + done, min(tile_tokens, counts[e] - done)};
    }
  }
  __syncthreads();
}

// Words of `work` that sort_in_block needs.
__host__ __device__ inline int sort_work_words(int num_slots, int num_experts) {
  return num_slots <= kMaxComparedSlots ? 0 : 3 * num_experts + num_slots;
}

// The expert of a slot, shared ones first; -1 = none.
__device__ __forceinline__ std::int32_t expert_of_slot(const MoeParams& p, int slot) {
  const int shared = p.shared.count;
  if (shared == 0) return p.ids[slot];
  const int token = slot / slots_of_token(p);
  const int i = slot % slots_of_token(p);
  if (i < shared) return i;
  const std::int32_t id = p.ids[token * p.topk + i - shared];
  return id < 0 ? id : shared + id;
}

// Sorts the slots, of which there are at most kMaxBlockSlots. All threads of the block (at least
// kMaxComparedSlots) call it. With shared experts `work` is not touched: there are at most kMaxComparedSlots.
__device__ inline void sort_in_block(BlockRoute& r, std::int32_t* work, const MoeParams& p, int tile_tokens) {
  const int num_slots = p.m * slots_of_token(p);
  for (int i = static_cast<int>(threadIdx.x); i < num_slots; i += static_cast<int>(blockDim.x)) {
    r.ids[i] = expert_of_slot(p, i);
  }
  __syncthreads();
  if (num_slots <= kMaxComparedSlots) {
    sort_by_comparing(r, num_slots, tile_tokens);
  } else {
    sort_by_counting(r, work, num_slots, p.num_experts, tile_tokens);
  }
}

}  // namespace nibble::kernels::cuda::moe
