// Routing: one warp per token. Choice scores are unsigned keys that order like the floats, so that a pick is
// two warp operations: the largest key, then the lowest index that has it. Lanes hold neighbouring experts in
// registers where these divide evenly into lanes and groups into experts; else keys lie in shared memory.
#include <cmath>

#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/moe/gate_product.h"
#include "kernels/cuda/moe/topk_gate.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"
#include "kernels/cuda/shared_memory.h"

namespace nibble::kernels::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kWarp = 32;
constexpr int kMaxWarps = 4;
// Below every key a float can have: taken by an earlier pick.
constexpr std::uint32_t kTaken = 0;
constexpr std::uint32_t kMaskedKey = 0x007FFFFFU;  // of -infinity

// Orders like the float; -0 and +0 are the same key. NaN has some key.
__device__ std::uint32_t key_of(float value) {
  const std::uint32_t bits = __float_as_uint(value + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits | (bits == 0xFFFFFFFFU ? 1U : 0U) : bits | 0x80000000U;
}

__device__ float value_of(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

__device__ float warp_max(float value) {
  for (int d = kWarp / 2; d > 0; d /= 2) value = fmaxf(value, __shfl_xor_sync(kAll, value, d));
  return value;
}

__device__ float warp_sum(float value) {
  for (int d = kWarp / 2; d > 0; d /= 2) value += __shfl_xor_sync(kAll, value, d);
  return value;
}

struct Scorer {
  bool softmax;
  float top;
  float sum;
  __device__ float operator()(float logit) const {
    return softmax ? expf(logit - top) / sum : 1.0F / (1.0F + expf(-logit));
  }
};

__device__ Scorer make_scorer(const TopkGateParams& p, const float* logits, int lane) {
  Scorer scorer{p.softmax, 0.0F, 1.0F};
  if (!p.softmax) return scorer;
  float top = -INFINITY;
  for (int e = lane; e < p.num_experts; e += kWarp) top = fmaxf(top, logits[e]);
  scorer.top = warp_max(top);
  float sum = 0.0F;
  for (int e = lane; e < p.num_experts; e += kWarp) sum += expf(logits[e] - scorer.top);
  scorer.sum = warp_sum(sum);
  return scorer;
}

// Sets the keys of the `count` largest of keys[0, size) to kTaken, ties going to the lower index.
__device__ void take_largest(std::uint32_t* keys, int size, int count, int lane) {
  std::uint32_t best = kTaken;
  int best_index = size;
  const auto scan = [&] {
    best = kTaken;
    best_index = size;
    for (int i = lane; i < size; i += kWarp) {
      const std::uint32_t key = keys[i];
      if (key > best) {
        best = key;
        best_index = i;
      }
    }
  };
  scan();
  for (int pick = 0; pick < count; ++pick) {
    const std::uint32_t top = __reduce_max_sync(kAll, best);
    const int index = __reduce_min_sync(kAll, best == top ? best_index : size);
    if (best_index == index && index < size) {
      keys[index] = kTaken;
      scan();
    }
  }
  __syncwarp();
}

// Key of a group's score; all lanes get it.
__device__ std::uint32_t group_key(const std::uint32_t* keys, int size, bool top2_sum, int lane) {
  std::uint32_t first = kMaskedKey;
  std::uint32_t second = kMaskedKey;
  for (int i = lane; i < size; i += kWarp) {
    const std::uint32_t key = keys[i];
    second = max(second, min(first, key));
    first = max(first, key);
  }
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const std::uint32_t other_first = __shfl_xor_sync(kAll, first, d);
    const std::uint32_t other_second = __shfl_xor_sync(kAll, second, d);
    second = max(max(second, other_second), min(first, other_first));
    first = max(first, other_first);
  }
  if (!top2_sum || size == 1) return first;
  return max(key_of(value_of(first) + value_of(second)), 1U);
}

__device__ void mask_groups(const TopkGateParams& p, std::uint32_t* keys, std::uint32_t* group_keys,
                            int lane) {
  const int size = p.num_experts / p.n_group;
  for (int g = 0; g < p.n_group; ++g) {
    const std::uint32_t key = group_key(keys + g * size, size, p.top2_sum, lane);
    if (lane == 0) group_keys[g] = key;
  }
  __syncwarp();
  take_largest(group_keys, p.n_group, p.topk_group, lane);
  for (int e = lane; e < p.num_experts; e += kWarp) {
    if (group_keys[e / size] != kTaken) keys[e] = kMaskedKey;
  }
  __syncwarp();
}

// Taken experts in ascending order, with their scores; returns nothing but what it writes.
__device__ void write_taken(const TopkGateParams& p, const Scorer& scorer, const float* logits,
                            const std::uint32_t* keys, float* scores, std::int64_t token, int lane) {
  std::int32_t* ids = p.topk_ids + token * p.topk;
  int slots = 0;
  for (int begin = 0; begin < p.num_experts; begin += kWarp) {
    const int e = begin + lane;
    const bool taken = e < p.num_experts && keys[e] == kTaken;
    const unsigned mask = __ballot_sync(kAll, taken);
    const int slot = slots + __popc(mask & ((1U << lane) - 1U));
    if (taken && slot < p.topk) {
      ids[slot] = e;
      scores[slot] = scorer(logits[e]);
    }
    slots += __popc(mask);
  }
  __syncwarp();
  float sum = 0.0F;
  for (int i = 0; i < p.topk; ++i) sum += scores[i];
  for (int i = lane; i < p.topk; i += kWarp) {
    float weight = scores[i];
    if (p.norm_topk_prob) weight /= sum + 1e-20F;
    p.topk_weights[token * p.topk + i] = weight * p.routed_scaling_factor;
  }
}

__global__ void __launch_bounds__(kMaxWarps* kWarp) topk_gate_kernel(TopkGateParams p) {
  begin_overlapped();
  extern __shared__ std::uint32_t shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t token = std::int64_t{blockIdx.x} * (blockDim.x / kWarp) + warp;
  if (token >= p.m) return;
  std::uint32_t* keys = shared + warp * 2 * p.num_experts;
  std::uint32_t* spare = keys + p.num_experts;  // group scores, then the chosen experts' scores
  const float* logits = p.logits + token * p.logits_stride;

  const Scorer scorer = make_scorer(p, logits, lane);
  for (int e = lane; e < p.num_experts; e += kWarp) {
    const float score = scorer(logits[e]);
    keys[e] = key_of(p.correction_bias == nullptr ? score : score + p.correction_bias[e]);
  }
  __syncwarp();
  if (p.n_group > 1) mask_groups(p, keys, spare, lane);
  take_largest(keys, p.num_experts, p.topk, lane);
  write_taken(p, scorer, logits, keys, reinterpret_cast<float*>(spare), token, lane);
}

// Experts lane * kPer .. of one token in the registers of each lane.
template <int kPer>
struct LaneExperts {
  float scores[kPer];
  std::uint32_t keys[kPer];
  std::uint32_t taken = 0;  // bit i: expert i has been picked

  // No logits: zeros.
  __device__ void load(const TopkGateParams& p, const float* logits, const float (&bias)[kPer]) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) scores[i] = logits == nullptr ? 0.0F : logits[i];
    if (p.num_slices > 1 && logits != nullptr) add_slices(p, logits);
    if (p.softmax) {
      float top = -INFINITY;
#pragma unroll
      for (int i = 0; i < kPer; ++i) top = fmaxf(top, scores[i]);
      top = warp_max(top);
      float sum = 0.0F;
#pragma unroll
      for (int i = 0; i < kPer; ++i) sum += scores[i] = expf(scores[i] - top);
      sum = warp_sum(sum);
#pragma unroll
      for (int i = 0; i < kPer; ++i) scores[i] /= sum;
    } else {
#pragma unroll
      for (int i = 0; i < kPer; ++i) scores[i] = 1.0F / (1.0F + expf(-scores[i]));
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) keys[i] = key_of(scores[i] + bias[i]);
  }

  // Slices lie in scratch memory: aligned, whole vectors to a lane. Without branches, so that all are asked
  // for at once.
  __device__ void add_slices(const TopkGateParams& p, const float* logits) {
    constexpr int kVector = kPer % 4 == 0 ? 4 : kPer % 2 == 0 ? 2 : 1;
    struct alignas(kVector * sizeof(float)) Vector {
      float values[kVector];
    };
    Vector more[kMaxGateSlices][kPer / kVector];
#pragma unroll
    for (int s = 1; s < kMaxGateSlices; ++s) {
      const float* slice = logits + (s < p.num_slices ? s : 0) * p.slice_stride;
#pragma unroll
      for (int i = 0; i < kPer / kVector; ++i) {
        more[s][i] = *reinterpret_cast<const Vector*>(slice + i * kVector);
      }
    }
#pragma unroll
    for (int s = 1; s < kMaxGateSlices; ++s) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        scores[i] += s < p.num_slices ? more[s][i / kVector].values[i % kVector] : 0.0F;
      }
    }
  }

  // Leaves the experts of the topk_group best groups as they are. A group is lanes_of_group whole lanes.
  __device__ void mask_groups(const TopkGateParams& p, int lane) {
    const int lanes_of_group = kWarp / p.n_group;
    std::uint32_t first = kMaskedKey;
    std::uint32_t second = kMaskedKey;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      second = max(second, min(first, keys[i]));
      first = max(first, keys[i]);
    }
    for (int d = lanes_of_group / 2; d > 0; d /= 2) {
      const std::uint32_t other_first = __shfl_xor_sync(kAll, first, d);
      const std::uint32_t other_second = __shfl_xor_sync(kAll, second, d);
      second = max(max(second, other_second), min(first, other_first));
      first = max(first, other_first);
    }
    std::uint32_t mine = first;
    if (p.top2_sum && p.num_experts > p.n_group) {
      mine = max(key_of(value_of(first) + value_of(second)), 1U);
    }
    const int my_group = lane / lanes_of_group;
    int better = 0;
    for (int g = 0; g < p.n_group; ++g) {
      const std::uint32_t other = __shfl_sync(kAll, mine, g * lanes_of_group);
      better += other > mine || (other == mine && g < my_group) ? 1 : 0;
    }
    if (better < p.topk_group) return;
#pragma unroll
    for (int i = 0; i < kPer; ++i) keys[i] = kMaskedKey;
  }

  __device__ void take_largest(int count, int lane) {
    for (int pick = 0; pick < count; ++pick) {
      std::uint32_t best = keys[0];
#pragma unroll
      for (int i = 1; i < kPer; ++i) best = max(best, keys[i]);
      const std::uint32_t top = __reduce_max_sync(kAll, best);
      const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, best == top))) - 1;
      if (lane != owner) continue;
      bool found = false;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (found || keys[i] != top) continue;
        found = true;
        keys[i] = kTaken;
        taken |= 1U << i;
      }
    }
  }

  __device__ void write(const TopkGateParams& p, std::int64_t token, int lane, bool real) const {
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kPer; ++i) sum += (taken >> i & 1U) != 0 ? scores[i] : 0.0F;
    sum = warp_sum(sum);
    int slot = __popc(taken);
    for (int d = 1; d < kWarp; d *= 2) {
      const int below = __shfl_up_sync(kAll, slot, d);
      if (lane >= d) slot += below;
    }
    slot -= __popc(taken);
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if ((taken >> i & 1U) == 0) continue;
      const float weight = p.norm_topk_prob ? scores[i] / (sum + 1e-20F) : scores[i];
      if (real) {
        p.topk_ids[token * p.topk + slot] = lane * kPer + i;
        p.topk_weights[token * p.topk + slot] = weight * p.routed_scaling_factor;
      }
      ++slot;
    }
  }
};

template <int kPer>
__global__ void __launch_bounds__(kMaxWarps* kWarp) topk_gate_registers_kernel(TopkGateParams p) {
  let_next_kernel_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t token = std::int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  float bias[kPer] = {};
  if (p.correction_bias != nullptr) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) bias[i] = p.correction_bias[lane * kPer + i];
  }
  // Weights that stream by drive instructions out of the caches, and fetching these is most of what choosing
  // for a few tokens takes. So it is done once for nothing, on zeros, while the kernel in front still runs.
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    const bool real = pass == 1;
    if (real) wait_for_earlier_kernels();
    if (token >= p.m) continue;
    LaneExperts<kPer> experts;
    experts.load(p, real ? p.logits + token * p.logits_stride + lane * kPer : nullptr, bias);
    if (p.n_group > 1) experts.mask_groups(p, lane);
    experts.take_largest(p.topk, lane);
    experts.write(p, token, lane, real);
  }
}

template <int kPer>
void launch_in_registers(const TopkGateParams& params, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((params.m + kMaxWarps - 1) / kMaxWarps);
  launch_overlapped(topk_gate_registers_kernel<kPer>, dim3(blocks), kMaxWarps * kWarp, 0, stream, params);
}

void launch_in_shared_memory(const TopkGateParams& params, cudaStream_t stream) {
  const int warp_bytes = 2 * params.num_experts * static_cast<int>(sizeof(float));
  const int warps = params.num_experts <= 1024 ? kMaxWarps : 1;
  const int bytes = warps * warp_bytes;
  allow_all_shared_memory(topk_gate_kernel);
  const auto blocks = static_cast<unsigned>((params.m + warps - 1) / warps);
  launch_overlapped(topk_gate_kernel, dim3(blocks), warps * kWarp, bytes, stream, params);
}

// Neighbouring experts of a lane, or 0 if they do not lie in registers.
int experts_per_lane(const TopkGateParams& params) {
  if (params.num_experts % kWarp != 0 || kWarp % params.n_group != 0) return 0;
  const int per_lane = params.num_experts / kWarp;
  return per_lane == 2 || per_lane == 4 || per_lane == 5 || per_lane == 8 || per_lane == 12 ? per_lane : 0;
}

}  // namespace

bool topk_gate_adds_slices(const TopkGateParams& params) { return experts_per_lane(params) != 0; }

void launch_topk_gate(const TopkGateParams& params, cudaStream_t stream) {
  if (params.m == 0) return;
  switch (experts_per_lane(params)) {
    case 2: return launch_in_registers<2>(params, stream);
    case 4: return launch_in_registers<4>(params, stream);
    case 5: return launch_in_registers<5>(params, stream);
    case 8: return launch_in_registers<8>(params, stream);
    case 12: return launch_in_registers<12>(params, stream);
    default: return launch_in_shared_memory(params, stream);
  }
}

}  // namespace nibble::kernels::cuda
