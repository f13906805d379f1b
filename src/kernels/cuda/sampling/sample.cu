// Sampling: a row of logits to a token, one cluster per row. Each block keeps its slice of the row in shared
// memory; what top-k and top-p leave is found by narrowing down the last key that stays: sums of weights by
// bins of probability first, then by bins of keys. All sums are of integers (kernels/sampling.h), so that
// the ids are those of ref/sampling.cpp.
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"
#include "kernels/cuda/sampling/bins.cuh"
#include "kernels/cuda/sampling/sample.h"
#include "kernels/sampling.h"

namespace nibble::kernels::cuda {
namespace {

using namespace sampler;
using namespace sampling;

// Logits of a slice that fit in shared memory beside `Shared`.
constexpr int kMaxShared = 50000;

constexpr int kBinShift = 27;  // 32 bins an octave of probability
static_assert((kNoWeight >> kBinShift) < kBins);
constexpr int kKeyBits = 10;  // of a key's range, in a bin's number
static_assert((1 << kKeyBits) <= kBins);

// What stays: keys below `key`, and the first `ties` tokens that have it.
struct Cut {
  std::uint32_t key = 0xFFFFFFFFU;
  std::uint32_t ties = 0xFFFFFFFFU;
  std::uint64_t mass = 0;  // of what stays
};

// A block's slice of a row.
struct Slice {
  float* logits;
  int begin;  // id of the first
  int size;
  int chunk;  // consecutive ones of a thread where their order matters; odd, so that banks differ
  float max = 0;
  double scale = 0;
  __device__ std::int64_t distance(float logit) const { return distance_of(logit, max, scale); }
};

// Calls visit(logit, is_there) for all of a slice, whole warps at a time.
template <class Visit>
__device__ void for_each(const Slice& slice, Visit&& visit) {
  for (int begin = 0; begin < slice.size; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    visit(i < slice.size ? slice.logits[i] : slice.max, i < slice.size);
  }
}

// Key and id, so that the least is the most probable token; 0 if the logit is not finite.
__device__ std::uint64_t candidate(float logit, int id) {
  return is_finite(logit) ? std::uint64_t{key_of(logit)} << 32 | static_cast<std::uint32_t>(id) : 0;
}

__device__ std::uint64_t warp_least(std::uint64_t value) {
  for (int d = 16; d > 0; d /= 2) value = min(value, __shfl_xor_sync(kAll, value, d));
  return value;
}

// The least of the cluster.
__device__ std::uint64_t least(Shared& s, std::uint64_t mine) {
  mine = warp_least(mine);
  if (lane_id() == 0) s.warp_best[warp_id()] = mine;
  __syncthreads();
  if (warp_id() == 0) {
    const std::uint64_t block = warp_least(s.warp_best[lane_id() % kWarps]);
    if (lane_id() == 0) s.best = block;
  }
  cluster_sync();
  return warp_least(*of_block(&s.best, lane_id() % kBlocks));
}

// Copies a slice to shared memory; the best of this thread's candidates.
__device__ std::uint64_t load(const Slice& slice, const float* from) {
  std::uint64_t best = ~std::uint64_t{0};
  const auto take = [&](int i, float logit) {
    slice.logits[i] = logit;
    best = min(best, candidate(logit, slice.begin + i));
  };
  const int tid = static_cast<int>(threadIdx.x);
  if (reinterpret_cast<std::uint64_t>(from) % sizeof(float4) != 0) {
    for (int i = tid; i < slice.size; i += kThreads) take(i, from[i]);
    return best;
  }
  const auto* vectors = reinterpret_cast<const float4*>(from);
#pragma unroll 4
  for (int v = tid; v < slice.size / 4; v += kThreads) {
    const float4 four = vectors[v];
    take(4 * v, four.x);
    take(4 * v + 1, four.y);
    take(4 * v + 2, four.z);
    take(4 * v + 3, four.w);
  }
  const int rest = slice.size / 4 * 4 + tid;
  if (rest < slice.size) take(rest, from[rest]);
  return best;
}

__device__ std::uint64_t best_of(const Slice& slice) {
  std::uint64_t best = ~std::uint64_t{0};
  for (int i = static_cast<int>(threadIdx.x); i < slice.size; i += kThreads) {
    best = min(best, candidate(slice.logits[i], slice.begin + i));
  }
  return best;
}

__device__ void apply_penalties(const SampleParams& p, const SampleRow& row, const Slice& slice) {
  __syncthreads();
  for (int i = row.history_begin + static_cast<int>(threadIdx.x); i < row.history_end; i += kThreads) {
    const TokenCount token = p.history[i];
    const int at = token.id - slice.begin;
    if (at >= 0 && at < slice.size) slice.logits[at] = penalize(slice.logits[at], row, token.generated);
  }
  __syncthreads();
}

// The first and the last key in a bin of probability.
__device__ void keys_of_bin(Shared& s, const Slice& slice, int bin, std::uint32_t& first,
                            std::uint32_t& last) {
  if (threadIdx.x == 0) {
    s.first_key = 0xFFFFFFFFU;
    s.last_key = 0;
  }
  first = 0xFFFFFFFFU;
  last = 0;
  for_each(slice, [&](float logit, bool is_there) {
    const std::int64_t distance = slice.distance(logit);
    if (!is_there || distance >= kNoWeight || distance >> kBinShift != bin) return;
    const std::uint32_t key = key_of(logit);
    first = min(first, key);
    last = max(last, key);
  });
  first = __reduce_min_sync(kAll, first);
  last = __reduce_max_sync(kAll, last);
  __syncthreads();
  if (lane_id() == 0) {
    atomicMin(&s.first_key, first);
    atomicMax(&s.last_key, last);
  }
  cluster_sync();
  first = __reduce_min_sync(kAll, *of_block(&s.first_key, lane_id() % kBlocks));
  last = __reduce_max_sync(kAll, *of_block(&s.last_key, lane_id() % kBlocks));
}

// The cut that reaches a count, or a share of the mass of `set` (0: of all tokens).
__device__ Cut find_cut(Shared& s, const Slice& slice, int count, float share, std::uint64_t set) {
  clear_bins(s);
  for_each(slice, [&](float logit, bool is_there) {
    const std::int64_t distance = slice.distance(logit);
    add_token(s, is_there && distance < kNoWeight, static_cast<int>(distance >> kBinShift),
              weight_at(distance));
  });
  const Sum total = sum_bins(s);
  const Goal goal = count > 0 ? Goal{false, static_cast<std::uint64_t>(count)}
                              : Goal{true, wanted_mass(set > 0 ? set : total.mass, share)};
  Place place = find_bin(s, goal, {0, 0});
  if (place.bin < 0) return {.mass = total.mass};

  std::uint32_t first = 0;
  std::uint32_t last = 0;
  keys_of_bin(s, slice, place.bin, first, last);
  while (first < last) {
    const int shift = max(0, 32 - __clz(static_cast<int>(last - first)) - kKeyBits);
    clear_bins(s);
    for_each(slice, [&](float logit, bool is_there) {
      const std::uint32_t key = key_of(logit);
      const bool counts = is_there && key >= first && key <= last;
      add_token(s, counts, static_cast<int>((key - first) >> shift),
                counts ? weight_at(slice.distance(logit)) : 0);
    });
    sum_bins(s);
    place = find_bin(s, goal, place.before);
    first += static_cast<std::uint32_t>(place.bin) << shift;
    last = min(last, first + (1U << shift) - 1);
  }
  const std::uint64_t weight = weight_at(slice.distance(logit_of(first)));
  const std::uint64_t ties = goal.by_mass ? (goal.wanted - place.before.mass + weight - 1) / weight
                                          : goal.wanted - place.before.count;
  return {.key = first, .ties = static_cast<std::uint32_t>(ties), .mass = place.before.mass + ties * weight};
}

// Goes through this thread's consecutive tokens; visit(i, weight) of those that stay, until it says stop.
template <class Visit>
__device__ void for_kept(const Slice& slice, const Cut& cut, std::uint64_t least_weight,
                         std::uint32_t ties_before, Visit&& visit) {
  const int begin = static_cast<int>(threadIdx.x) * slice.chunk;
  for (int i = begin; i < min(begin + slice.chunk, slice.size); ++i) {
    const float logit = slice.logits[i];
    const std::int64_t distance = slice.distance(logit);
    const std::uint32_t key = key_of(logit);
    if (distance >= kNoWeight || key > cut.key) continue;
    if (key == cut.key && ties_before++ >= cut.ties) continue;
    const std::uint64_t weight = weight_at(distance);
    if (weight >= least_weight && visit(i, weight)) return;
  }
}

__device__ void draw(Shared& s, const Slice& slice, const SampleRow& row, const Cut& cut, std::int32_t* id) {
  Sum total{};
  Sum ties{0, 0};
  if (cut.key != 0xFFFFFFFFU) {
    const int begin = static_cast<int>(threadIdx.x) * slice.chunk;
    for (int i = begin; i < min(begin + slice.chunk, slice.size); ++i) {
      ties.count += key_of(slice.logits[i]) == cut.key ? 1 : 0;
    }
    ties = scan_cluster(s, ties, total);
  }
  const std::uint64_t least_weight = wanted_weight(row.min_p);
  std::uint64_t mass = 0;
  for_kept(slice, cut, least_weight, ties.count, [&](int, std::uint64_t weight) {
    mass += weight;
    return false;
  });
  std::uint64_t before = scan_cluster(s, {mass, 0}, total).mass;
  const std::uint64_t target = drawn_mass(row.seed, row.index, total.mass);
  if (target < before || target >= before + mass) return;
  for_kept(slice, cut, least_weight, ties.count, [&](int i, std::uint64_t weight) {
    before += weight;
    if (before <= target) return false;
    *id = slice.begin + i;
    return true;
  });
}

template <bool kInShared>
__global__ void __cluster_dims__(kBlocks) __launch_bounds__(kThreads, 2) sample_kernel(SampleParams p) {
  begin_overlapped();
  extern __shared__ float4 slice_memory[];
  __shared__ Shared s;
  const int row_idx = static_cast<int>(blockIdx.x) / kBlocks;
  const int rank = cluster_rank();
  const int slice_size = (p.vocabulary + 4 * kBlocks - 1) / (4 * kBlocks) * 4;
  const SampleRow row = p.rows[row_idx];
  float* const from = p.logits + row_idx * p.logits_stride + std::int64_t{rank} * slice_size;
  Slice slice{.logits = kInShared ? reinterpret_cast<float*>(slice_memory) : from,
              .begin = rank * slice_size,
              .size = max(0, min(slice_size, p.vocabulary - rank * slice_size)),
              .chunk = (slice_size + kThreads - 1) / kThreads | 1};

  std::uint64_t mine = kInShared ? load(slice, from) : best_of(slice);
  if (row.history_begin < row.history_end) {
    apply_penalties(p, row, slice);
    mine = best_of(slice);
  }
  const std::uint64_t best = least(s, mine);
  const auto best_key = static_cast<std::uint32_t>(best >> 32);
  std::int32_t* const id = p.ids + row_idx;
  if (best_key == 0 || row.temperature == 0 || row.top_k == 1) {
    if (rank == 0 && threadIdx.x == 0) *id = best_key == 0 ? kNotFinite : static_cast<std::int32_t>(best);
  } else {
    slice.max = logit_of(best_key);
    slice.scale = exponent_scale(row.temperature);
    Cut cut;
    if (row.top_k > 0) cut = find_cut(s, slice, row.top_k, 0, 0);
    if (row.top_p < 1) cut = find_cut(s, slice, 0, row.top_p, cut.mass);
    draw(s, slice, row, cut, id);
  }
  cluster_sync();  // nobody reads this block's shared memory any more
}

}  // namespace

void launch_sample(const SampleParams& params, cudaStream_t stream) {
  const int slice_size = (params.vocabulary + 4 * kBlocks - 1) / (4 * kBlocks) * 4;
  const bool in_shared = slice_size <= kMaxShared;
  auto* const kernel = in_shared ? sample_kernel<true> : sample_kernel<false>;
  const int bytes = in_shared ? slice_size * static_cast<int>(sizeof(float)) : 0;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(params.m * kBlocks)), kThreads, bytes, stream, params);
}

}  // namespace nibble::kernels::cuda
