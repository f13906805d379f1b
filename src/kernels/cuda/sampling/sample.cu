// Sampling: a row of logits to a token, one cluster per row. Each block keeps its slice of the row in shared
// memory. What top-k and top-p leave is everything up to a last key; that is found by sums over bins of
// probability, rounded, which leave a narrow range of keys, then by exact sums over bins of keys. The draw
// finds a warp's segment, then the token in it. All sums are of integers (kernels/sampling.h), so that the
// ids are those of ref/sampling.cpp.
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"
#include "kernels/cuda/sampling/cluster_sums.cuh"
#include "kernels/cuda/sampling/sample.h"
#include "kernels/cuda/shared_memory.h"
#include "kernels/sampling.h"

namespace nibble::kernels::cuda {
namespace {

using namespace sampler;
using namespace sampling;

// Logits of a slice that fit in shared memory beside `Shared`.
constexpr int kMaxShared = 50000;

constexpr int kBinShift = kExponentBits - 5;  // 32 bins an octave of probability
static_assert((kNoWeight >> kBinShift) < kBins);
constexpr int kKeyBits = 10;  // of a key's range, in a bin's number
static_assert((1 << kKeyBits) <= kBins);

// What stays: logits above the last, and those equal to it with ids up to `last_id`.
struct Cut {
  float last = -INFINITY;
  int last_id = 0;
  std::uint64_t mass = 0;  // of what stays; 0: not known
  __device__ bool keeps(float logit, int id) const {
    return logit > last || (logit == last && id <= last_id);
  }
};

// A block's slice of a row.
struct Slice {
  float* logits;
  int begin;  // id of the first
  int size;
  int segment;                 // consecutive ones of a warp
  std::uint32_t best_key = 0;  // of the row
  float max = 0;
  float scale = 0;
  mutable int turn = 0;  // of scan_warps
  __device__ std::int32_t distance(float logit) const { return distance_of(logit, max, scale); }
  __device__ std::uint64_t weight(float logit) const { return weight_at(distance(logit)); }
};

// Calls take(prepare(index, logit, is_there)) for all of a slice, whole warps at a time; several are prepared
// at once, since loads and arithmetic take their time.
template <class Prepare, class Take>
__device__ void for_each(const Slice& slice, Prepare&& prepare, Take&& take) {
  constexpr int kAtOnce = 4;
  for (int begin = 0; begin < slice.size; begin += kAtOnce * kThreads) {
    decltype(prepare(0, 0.0F, false)) items[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = begin + j * kThreads + static_cast<int>(threadIdx.x);
      const bool is_there = i < slice.size;
      items[j] = prepare(i, is_there ? slice.logits[i] : slice.max, is_there);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) take(items[j]);
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

// Adds up sum(logit) over the cluster.
template <class ToSum>
__device__ Sum add_all(Shared& s, const Slice& slice, ToSum&& sum) {
  Sum mine{};
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < slice.size; i += kThreads)
    mine = mine + sum(slice.logits[i]);
  Sum total{};
  scan_warps(s, add_lanes(mine), total, slice.turn);
  return total;
}

// Calls found(index), in one thread of the cluster, for the token with which the sum of value(index) by id
// first exceeds target(total). There is one.
template <class Value, class Target, class Found>
__device__ void locate(Shared& s, const Slice& slice, Value&& value, Target&& target, Found&& found) {
  const int begin = warp_id() * slice.segment;
  const int end = min(begin + slice.segment, slice.size);
  std::uint64_t mine = 0;
#pragma unroll 8
  for (int i = begin + lane_id(); i < end; i += 32) mine += value(i);
  mine = add_lanes({mine, 0}).mass;
  if (threadIdx.x == 0) s.owner = -1;
  Sum total{};
  const std::uint64_t before = scan_warps(s, {mine, 0}, total, slice.turn).mass;
  const std::uint64_t wanted = target(total.mass);
  if (lane_id() == 0 && before <= wanted && wanted < before + mine) {
    s.owner = warp_id();
    s.owned = wanted - before;
  }
  __syncthreads();
  if (s.owner < 0) return;
  // All threads share the segment.
  const int share = (slice.segment + kThreads - 1) / kThreads;
  const int segment_end = min((s.owner + 1) * slice.segment, slice.size);
  const int first = s.owner * slice.segment + static_cast<int>(threadIdx.x) * share;
  const int last = min(first + share, segment_end);
  Sum piece{};
  for (int i = first; i < last; ++i) piece.mass += value(i);
  std::uint64_t through = scan_block(s, piece, total).mass;
  if (through > s.owned || s.owned >= through + piece.mass) return;
  int i = first;
  while ((through += value(i)) <= s.owned) ++i;
  found(i);
}

// The first key whose distance is at least this; called by whole warps.
__device__ std::uint32_t first_key_at(const Slice& slice, std::int32_t distance) {
  distance = min(distance, kNoWeight);
  std::uint32_t low = slice.best_key;
  std::uint32_t high = key_of(-INFINITY);
  while (low < high) {
    const std::uint32_t step = (high - low) / 32 + 1;
    const std::uint32_t probe = min(low + static_cast<std::uint32_t>(lane_id()) * step, high);
    const unsigned reached = __ballot_sync(kAll, slice.distance(logit_of(probe)) >= distance);
    const int lane = reached == 0 ? 32 : __ffs(static_cast<int>(reached)) - 1;
    const std::uint32_t below = __shfl_sync(kAll, probe, max(lane - 1, 0));
    const std::uint32_t at = __shfl_sync(kAll, probe, lane % 32);
    if (lane > 0) low = below + 1;
    if (lane < 32) high = at;
  }
  return low;
}

// First and last key.
struct Range {
  std::uint32_t first;
  std::uint32_t last;
  bool is_empty;  // the goal is not reached
};

// A range of keys that holds the one in which the goal is reached by the tokens that `within` keeps: from the
// sums, over bins of probability, of counts, or of weights rounded down to multiples of 2^shift, which are
// too low by less than one for each of the row's tokens.
__device__ Range bracket(Shared& s, const Slice& slice, int vocabulary, const Goal& goal, int shift,
                         const Cut& within) {
  clear_bins(s);
  struct Units {
    std::uint32_t units;
    int bin;
  };
  const auto prepare = [&](int i, float logit, bool is_there) {
    const std::int32_t distance = slice.distance(logit);
    const bool counts = is_there && distance < kNoWeight && within.keeps(logit, slice.begin + i);
    const std::uint64_t units = goal.by_mass ? weight_at(distance) >> shift : 1;
    return Units{counts ? static_cast<std::uint32_t>(units) : 0, distance >> kBinShift};
  };
  for_each(slice, prepare, [&](const Units& item) {
    const unsigned lanes = __ballot_sync(kAll, item.units > 0);
    if (item.units == 0) return;
    int is_same = 0;
    __match_all_sync(lanes, item.bin, &is_same);
    if (is_same == 0) {
      atomicAdd(&s.count[item.bin], item.units);
    } else {  // flat distributions: as one
      const unsigned sum = __reduce_add_sync(lanes, item.units);
      if (lane_id() == __ffs(static_cast<int>(lanes)) - 1) atomicAdd(&s.count[item.bin], sum);
    }
  });
  sum_bins(s);
  const std::uint64_t rounded = goal.by_mass ? (goal.wanted >> shift) + 1 : goal.wanted;
  const int to = find_bin(s, {false, rounded}, {}).bin;
  int from = to;
  if (goal.by_mass) {
    const std::uint64_t least = goal.wanted >> shift;
    const auto most_lost = static_cast<std::uint64_t>(vocabulary);
    from = find_bin(s, {false, least > most_lost ? least - most_lost : 0}, {}).bin;
  }
  const std::int32_t end = to < 0 ? kNoWeight : (to + 1) << kBinShift;
  return {.first = from <= 0 ? slice.best_key : first_key_at(slice, from << kBinShift),
          .last = first_key_at(slice, end) - 1,
          .is_empty = !goal.by_mass && to < 0};
}

// Sums over bins of the keys in a range, and the first and last key of each.
__device__ void add_keys(Shared& s, const Slice& slice, std::uint32_t first, std::uint32_t last, int shift) {
  constexpr int kHalf = 21;  // bits of a weight, and 32 times that fits in a word
  clear_bins(s);
  struct Item {
    std::uint32_t key;
    float logit;
    bool counts;
  };
  const auto prepare = [&](int, float logit, bool is_there) {
    const std::uint32_t key = key_of(logit);
    return Item{key, logit, is_there && key >= first && key <= last};
  };
  for_each(slice, prepare, [&](const Item& item) {
    const unsigned lanes = __ballot_sync(kAll, item.counts);
    if (!item.counts) return;
    const auto [key, logit, counts] = item;
    const auto bin = static_cast<int>((key - first) >> shift);
    Sum sum{slice.weight(logit), 1};
    std::uint32_t low_key = key;
    std::uint32_t high_key = key;
    int is_same = 0;
    __match_all_sync(lanes, bin, &is_same);
    if (is_same != 0) {
      const unsigned low = __reduce_add_sync(lanes, static_cast<unsigned>(sum.mass) & ((1U << kHalf) - 1));
      const unsigned high = __reduce_add_sync(lanes, static_cast<unsigned>(sum.mass >> kHalf));
      sum = {(std::uint64_t{high} << kHalf) + low, static_cast<std::uint32_t>(__popc(lanes))};
      low_key = __reduce_min_sync(lanes, key);
      high_key = __reduce_max_sync(lanes, key);
      if (lane_id() != __ffs(static_cast<int>(lanes)) - 1) return;
    }
    const auto low = static_cast<std::uint32_t>(sum.mass);
    atomicAdd(&s.count[bin], sum.count);
    const std::uint32_t was = atomicAdd(&s.mass_low[bin], low);
    atomicAdd(&s.mass_high[bin], static_cast<std::uint32_t>(sum.mass >> 32) + (was + low < was ? 1U : 0U));
    atomicMin(&s.first_key[bin], low_key);
    atomicMax(&s.last_key[bin], high_key);
  });
  sum_bins(s);
}

// The cut that leaves `count` tokens or, if that is 0, `share` of the mass that `within` keeps.
__device__ Cut find_cut(Shared& s, const Slice& slice, int vocabulary, int count, float share,
                        const Cut& within) {
  const auto sum_of = [&](float logit) { return Sum{slice.weight(logit), 1}; };
  const auto mass_of_all = [&] { return add_all(s, slice, sum_of).mass; };
  Goal goal{false, static_cast<std::uint64_t>(count)};
  int shift = 0;
  if (count == 0) {
    constexpr int kUnitBits = 30;  // of the sum of all units
    const std::uint64_t mass = within.mass > 0 ? within.mass : mass_of_all();
    goal = {true, wanted_mass(mass, share)};
    shift = max(0, 64 - __clzll(static_cast<long long>(mass)) - kUnitBits);
  }
  auto [first, last, is_empty] = bracket(s, slice, vocabulary, goal, shift, within);
  if (is_empty) return {.mass = mass_of_all()};

  Sum before{};
  if (first > slice.best_key) {
    before = add_all(s, slice, [&](float logit) {
      const Sum sum = sum_of(logit);
      return key_of(logit) < first ? sum : Sum{};
    });
  }
  Place place{};
  do {
    const int key_shift = first == last ? 0 : max(0, 32 - __clz(static_cast<int>(last - first)) - kKeyBits);
    add_keys(s, slice, first, last, key_shift);
    place = find_bin(s, goal, before);
    before = place.before;
    first = __reduce_min_sync(kAll, *of_block(&s.first_key[place.bin], lane_id() % kBlocks));
    last = __reduce_max_sync(kAll, *of_block(&s.last_key[place.bin], lane_id() % kBlocks));
    cluster_sync();  // the keys are read
  } while (first < last);

  const float logit = logit_of(first);
  const std::uint64_t weight = slice.weight(logit);
  const std::uint64_t ties =
      goal.by_mass ? (goal.wanted - before.mass + weight - 1) / weight : goal.wanted - before.count;
  Cut cut{.last = logit, .last_id = vocabulary, .mass = before.mass + ties * weight};
  if (ties < place.sum.count) {
    if (threadIdx.x == 0) s.id = -1;
    __syncthreads();
    locate(
        s, slice, [&](int i) { return std::uint64_t{slice.logits[i] == logit ? 1U : 0U}; },
        [&](std::uint64_t) { return ties - 1; }, [&](int i) { s.id = slice.begin + i; });
    cluster_sync();
    cut.last_id = __reduce_max_sync(kAll, *of_block(&s.id, lane_id() % kBlocks));
  }
  return cut;
}

__device__ void draw(Shared& s, const Slice& slice, const SampleRow& row, const Cut& cut, std::int32_t* id) {
  const std::uint64_t least_weight = wanted_weight(row.min_p);
  const std::uint64_t bits = philox_bits(row.seed, row.index);
  const auto weight_if_kept = [&](int i) {
    const float logit = slice.logits[i];
    const std::uint64_t weight = slice.weight(logit);
    return cut.keeps(logit, slice.begin + i) && weight >= least_weight ? weight : 0;
  };
  locate(
      s, slice, weight_if_kept, [&](std::uint64_t total) { return high_product(bits, total); },
      [&](int i) { *id = slice.begin + i; });
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
              .segment = (slice_size + 32 * kWarps - 1) / (32 * kWarps) * 32};

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
    slice.best_key = best_key;
    slice.max = logit_of(best_key);
    slice.scale = exponent_scale(row.temperature);
    Cut cut;
    if (row.top_k > 0) cut = find_cut(s, slice, p.vocabulary, row.top_k, 0, cut);
    if (row.top_p < 1) cut = find_cut(s, slice, p.vocabulary, 0, row.top_p, cut);
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
  allow_all_shared_memory(kernel);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(params.m * kBlocks)), kThreads, bytes, stream, params);
}

}  // namespace nibble::kernels::cuda
