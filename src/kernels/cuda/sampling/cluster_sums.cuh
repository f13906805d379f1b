// Sums and searches over a cluster whose blocks hold a slice of a row each. All sums are of integers, in any
// order.
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
  std::uint64_t mass = 0;
  std::uint32_t count = 0;
  __device__ Sum operator+(const Sum& other) const { return {mass + other.mass, count + other.count}; }
  __device__ Sum operator-(const Sum& other) const { return {mass - other.mass, count - other.count}; }
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
  Sum sum;     // of it
  int bin;     // -1: not reached
};

// Shared memory of a block. What others read is not written before a barrier of the cluster has followed.
struct Shared {
  std::uint32_t count[kBins];
  std::uint32_t mass_low[kBins];
  std::uint32_t mass_high[kBins];
  std::uint32_t first_key[kBins];
  std::uint32_t last_key[kBins];
  Sum bins[kBlockBins];  // over the cluster, of this block's bins
  Sum all_bins;          // of this block
  Sum added[2];          // in turn
  std::uint64_t best;
  int id;
  // Of this block alone.
  Sum warps[kWarps];
  std::uint64_t warp_best[kWarps];
  Place place;
  int owner;
  std::uint64_t owned;
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
__device__ inline Sum add_lanes(Sum sum) {
  for (int d = 16; d > 0; d /= 2) {
    sum = sum + Sum{__shfl_xor_sync(kAll, sum.mass, d), __shfl_xor_sync(kAll, sum.count, d)};
  }
  return sum;
}

// Sums of the threads before this one; `total` of all. Synchronises the block.
__device__ inline Sum scan_block(Shared& s, const Sum& mine, Sum& total) {
  const Sum through = scan_lanes(mine);
  __syncthreads();
  if (lane_id() == 31) s.warps[warp_id()] = through;
  __syncthreads();
  const Sum warps = scan_lanes(lane_id() < kWarps ? s.warps[lane_id()] : Sum{});
  total = shuffle(warps, kWarps - 1);
  const Sum earlier = shuffle(warps, warp_id() == 0 ? 0 : warp_id() - 1);
  const Sum before = through - mine;
  return warp_id() == 0 ? before : before + earlier;
}

// Over the cluster: of the warps before this one; `total` of all. `mine` is a warp's, the same in its lanes;
// `turn` changes with every call, so that the last result may still be read.
__device__ inline Sum scan_warps(Shared& s, const Sum& mine, Sum& total, int& turn) {
  turn ^= 1;
  __syncthreads();
  if (lane_id() == 0) s.warps[warp_id()] = mine;
  __syncthreads();
  const Sum warps = scan_lanes(lane_id() < kWarps ? s.warps[lane_id()] : Sum{});
  const Sum earlier = shuffle(warps, warp_id()) - mine;
  const Sum block = shuffle(warps, kWarps - 1);
  if (threadIdx.x == 0) s.added[turn] = block;
  cluster_sync();
  const Sum blocks = scan_lanes(lane_id() < kBlocks ? *of_block(&s.added[turn], lane_id()) : Sum{});
  total = shuffle(blocks, kBlocks - 1);
  const int rank = cluster_rank();
  const Sum blocks_before = shuffle(blocks, rank == 0 ? 0 : rank - 1);
  return rank == 0 ? earlier : earlier + blocks_before;
}

// Synchronises the block.
__device__ inline void clear_bins(Shared& s) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    s.count[bin] = 0;
    s.mass_low[bin] = 0;
    s.mass_high[bin] = 0;
    s.first_key[bin] = 0xFFFFFFFFU;
    s.last_key[bin] = 0;
  }
  __syncthreads();
}

// Sums this block's bins over the cluster.
__device__ inline void sum_bins(Shared& s) {
  cluster_sync();
  Sum sum{};
  if (threadIdx.x < kBlockBins) {
    const int bin = cluster_rank() * kBlockBins + static_cast<int>(threadIdx.x);
#pragma unroll
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
}

// The first lane whose sum, with `before`, reaches the goal (32: none); adds what is before it.
__device__ inline int reaching_lane(const Sum& mine, const Goal& goal, Sum& before) {
  const Sum through = scan_lanes(mine);
  const int lane = __ffs(static_cast<int>(__ballot_sync(kAll, goal.is_reached(before + through)))) - 1;
  if (lane < 0) return 32;
  before = before + shuffle(through - mine, lane);
  return lane;
}

// After sum_bins: where the goal is reached, if `before` is what comes before the first bin. The same in all
// threads of the cluster. Synchronises the block.
__device__ inline Place find_bin(Shared& s, const Goal& goal, Sum before) {
  __syncthreads();  // the last place is read
  if (warp_id() == 0) {
    const int lane = lane_id();
    const int rank = reaching_lane(lane < kBlocks ? *of_block(&s.all_bins, lane) : Sum{}, goal, before);
    if (rank < kBlocks) {
      const Sum* bins = of_block(s.bins, rank);
      Sum each[kLaneBins];
      Sum mine{};
#pragma unroll
      for (int i = 0; i < kLaneBins; ++i) {
        const int bin = lane * kLaneBins + i;
        each[i] = bin < kBlockBins ? bins[bin] : Sum{};
        mine = mine + each[i];
      }
      if (lane == reaching_lane(mine, goal, before)) {
        bool found = false;
#pragma unroll
        for (int i = 0; i < kLaneBins; ++i) {
          if (found) continue;
          found = goal.is_reached(before + each[i]);
          if (found) {
            s.place = {before, each[i], rank * kBlockBins + lane * kLaneBins + i};
          } else {
            before = before + each[i];
          }
        }
      }
    } else if (lane == 0) {
      s.place = {before, {}, -1};
    }
  }
  __syncthreads();
  return s.place;
}

}  // namespace nibble::kernels::cuda::sampler
