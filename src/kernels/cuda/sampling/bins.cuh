// Sums of a row's weights by bins, over a cluster whose blocks hold a slice of the row each.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper/cluster.cuh"

namespace nibble::kernels::cuda::sampler {

inline constexpr int kBlocks = 8;  // of a cluster: one row
inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kBins = 1344;
inline constexpr int kBlockBins = kBins / kBlocks;  // whose sums over the cluster a block keeps
inline constexpr int kLaneBins = 6;
static_assert(kBins % kBlocks == 0 && kBlockBins <= kThreads && kBlockBins <= 32 * kLaneBins);
inline constexpr unsigned kAll = 0xFFFFFFFFU;

// How many tokens there are, and the sum of their weights.
struct Sum {
  std::uint64_t mass;
  std::uint32_t count;
  __device__ Sum operator+(const Sum& other) const { return {mass + other.mass, count + other.count}; }
};

// How far to go through the tokens, the most probable first: until so many, or such a sum, is reached.
struct Goal {
  bool by_mass;
  std::uint64_t wanted;
  __device__ bool is_reached(const Sum& sum) const { return (by_mass ? sum.mass : sum.count) >= wanted; }
};

// The bin in which a goal is reached.
struct Place {
  Sum before;  // that bin
  int bin;     // -1: not reached
};

// Shared memory of a block. What others read is not written before a cluster's barrier has followed.
struct Shared {
  std::uint32_t count[kBins];
  std::uint32_t mass_low[kBins];
  std::uint32_t mass_high[kBins];
  Sum bins[kBlockBins];  // over the cluster, of this block's bins
  Sum all_bins;          // of this block
  Sum scanned;           // of all threads
  std::uint64_t best;
  std::uint32_t first_key;
  std::uint32_t last_key;
  // Of this block alone.
  Sum warps[kWarps];
  std::uint64_t warp_best[kWarps];
  Place place;
  Sum total;
};

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

__device__ inline Sum shuffle(const Sum& sum, int lane) {
  return {__shfl_sync(kAll, sum.mass, lane), __shfl_sync(kAll, sum.count, lane)};
}

// Sums of the lanes up to this one.
__device__ inline Sum scan_lanes(Sum sum) {
  for (int d = 1; d < 32; d *= 2) {
    const Sum below{__shfl_up_sync(kAll, sum.mass, d), __shfl_up_sync(kAll, sum.count, d)};
    if (lane_id() >= d) sum = sum + below;
  }
  return sum;
}

// Sums of the threads before this one; `total` of all. Synchronises the block.
__device__ inline Sum scan_block(Shared& s, const Sum& mine, Sum& total) {
  const Sum through = scan_lanes(mine);
  __syncthreads();
  if (lane_id() == 31) s.warps[warp_id()] = through;
  __syncthreads();
  const Sum warps = scan_lanes(lane_id() < kWarps ? s.warps[lane_id()] : Sum{0, 0});
  total = shuffle(warps, kWarps - 1);
  const Sum earlier = shuffle(warps, warp_id() == 0 ? 0 : warp_id() - 1);
  const Sum before{through.mass - mine.mass, through.count - mine.count};
  return warp_id() == 0 ? before : before + earlier;
}

// The same over the cluster.
__device__ inline Sum scan_cluster(Shared& s, const Sum& mine, Sum& total) {
  Sum block{};
  const Sum before = scan_block(s, mine, block);
  cluster_sync();  // the last scan is read
  if (threadIdx.x == 0) s.scanned = block;
  cluster_sync();
  const Sum blocks = scan_lanes(lane_id() < kBlocks ? *of_block(&s.scanned, lane_id()) : Sum{0, 0});
  total = shuffle(blocks, kBlocks - 1);
  const int rank = cluster_rank();
  const Sum earlier = shuffle(blocks, rank == 0 ? 0 : rank - 1);
  return rank == 0 ? before : before + earlier;
}

// Synchronises the block.
__device__ inline void clear_bins(Shared& s) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    s.count[bin] = 0;
    s.mass_low[bin] = 0;
    s.mass_high[bin] = 0;
  }
  __syncthreads();
}

__device__ inline void add_sum(Shared& s, int bin, const Sum& sum) {
  const auto low = static_cast<std::uint32_t>(sum.mass);
  atomicAdd(&s.count[bin], sum.count);
  const std::uint32_t was = atomicAdd(&s.mass_low[bin], low);
  const std::uint32_t high = static_cast<std::uint32_t>(sum.mass >> 32) + (was + low < was ? 1U : 0U);
  if (high != 0) atomicAdd(&s.mass_high[bin], high);
}

// Adds a token to its bin; called by whole warps, `counts` says which lanes have one. Lanes that all hit the
// same bin, as those of flat distributions do, go there as one.
__device__ inline void add_token(Shared& s, bool counts, int bin, std::uint64_t weight) {
  constexpr int kHalf = 21;  // bits, and 32 times that fits in a word
  const unsigned lanes = __ballot_sync(kAll, counts);
  if (!counts) return;
  int is_same = 0;
  __match_all_sync(lanes, bin, &is_same);
  if (is_same == 0) return add_sum(s, bin, {weight, 1});
  const unsigned low = __reduce_add_sync(lanes, static_cast<unsigned>(weight) & ((1U << kHalf) - 1));
  const unsigned high = __reduce_add_sync(lanes, static_cast<unsigned>(weight >> kHalf));
  if (lane_id() == __ffs(static_cast<int>(lanes)) - 1) {
    add_sum(s, bin, {(std::uint64_t{high} << kHalf) + low, static_cast<std::uint32_t>(__popc(lanes))});
  }
}

// Sums this block's bins over the cluster; the sum of all bins.
__device__ inline Sum sum_bins(Shared& s) {
  cluster_sync();
  Sum sum{0, 0};
  if (threadIdx.x < kBlockBins) {
    const int bin = cluster_rank() * kBlockBins + static_cast<int>(threadIdx.x);
    for (int rank = 0; rank < kBlocks; ++rank) {
      const std::uint64_t high = *of_block(&s.mass_high[bin], rank);
      sum = sum + Sum{(high << 32) + *of_block(&s.mass_low[bin], rank), *of_block(&s.count[bin], rank)};
    }
    s.bins[threadIdx.x] = sum;
  }
  Sum total{};
  scan_block(s, sum, total);
  if (threadIdx.x == 0) s.all_bins = total;
  cluster_sync();
  const Sum blocks = scan_lanes(lane_id() < kBlocks ? *of_block(&s.all_bins, lane_id()) : Sum{0, 0});
  return shuffle(blocks, kBlocks - 1);
}

// The first lane whose sum, with `before`, reaches the goal (32: none), and what is before it.
__device__ inline int reaching_lane(const Sum& mine, const Goal& goal, Sum& before) {
  const Sum through = scan_lanes(mine);
  const int lane = __ffs(static_cast<int>(__ballot_sync(kAll, goal.is_reached(before + through)))) - 1;
  if (lane < 0) return 32;
  before = before + shuffle({through.mass - mine.mass, through.count - mine.count}, lane);
  return lane;
}

// After sum_bins: where the goal is reached, if `before` is what comes before the first bin. The same in all
// threads of the cluster. Synchronises the block.
__device__ inline Place find_bin(Shared& s, const Goal& goal, Sum before) {
  if (warp_id() == 0) {
    const int lane = lane_id();
    const int rank = reaching_lane(lane < kBlocks ? *of_block(&s.all_bins, lane) : Sum{0, 0}, goal, before);
    if (rank < kBlocks) {
      const Sum* bins = of_block(s.bins, rank);
      Sum mine{0, 0};
      for (int i = lane * kLaneBins; i < min((lane + 1) * kLaneBins, kBlockBins); ++i) mine = mine + bins[i];
      const int owner = reaching_lane(mine, goal, before);
      if (lane == owner) {
        int bin = lane * kLaneBins;
        while (!goal.is_reached(before + bins[bin])) before = before + bins[bin++];
        s.place = {before, rank * kBlockBins + bin};
      }
    } else if (lane == 0) {
      s.place = {before, -1};
    }
  }
  __syncthreads();
  return s.place;
}

}  // namespace nibble::kernels::cuda::sampler
