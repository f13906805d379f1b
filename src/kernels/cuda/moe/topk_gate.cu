// Routing: one warp per token. Choice scores lie in shared memory as unsigned keys that order like the
// floats, so that a pick is two warp reductions: the largest key, then the lowest index that has it.
#include <cmath>

#include "kernels/cuda/moe/topk_gate.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

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

}  // namespace

void launch_topk_gate(const TopkGateParams& params, cudaStream_t stream) {
  if (params.m == 0) return;
  const int warp_bytes = 2 * params.num_experts * static_cast<int>(sizeof(float));
  const int warps = params.num_experts <= 1024 ? kMaxWarps : 1;
  const int bytes = warps * warp_bytes;
  cudaFuncSetAttribute(topk_gate_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const auto blocks = static_cast<unsigned>((params.m + warps - 1) / warps);
  launch_overlapped(topk_gate_kernel, dim3(blocks), warps * kWarp, bytes, stream, params);
}

}  // namespace nibble::kernels::cuda
