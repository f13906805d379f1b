// Launch of the routing kernel: router logits to expert ids and weights, on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::kernels::cuda {

// kernels::TopkGateArgs as plain values; all pointers are device memory.
struct TopkGateParams {
  const float* logits;  // [m, num_experts], rows logits_stride floats apart
  std::int64_t logits_stride;
  std::int32_t num_slices;       // the logits are sums of so many tensors,
  std::int64_t slice_stride;     // so many floats apart
  const float* correction_bias;  // [num_experts] or null
  std::int32_t* topk_ids;        // [m, topk]
  float* topk_weights;           // [m, topk]
  std::int32_t m;
  std::int32_t num_experts;
  std::int32_t n_group;
  std::int32_t topk_group;
  std::int32_t topk;
  bool softmax;   // else sigmoid
  bool top2_sum;  // score of a group: sum of its two best, else its best
  bool norm_topk_prob;
  float routed_scaling_factor;
};

// More experts than this do not fit a block's shared memory.
inline constexpr std::int32_t kMaxGateExperts = 24576;

// Whether logits may come in more than one slice.
bool topk_gate_adds_slices(const TopkGateParams& params);

void launch_topk_gate(const TopkGateParams& params, cudaStream_t stream);

}  // namespace nibble::kernels::cuda
