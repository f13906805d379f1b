// Sums and maxima over a warp or a block, in a fixed order.
#pragma once

namespace nibble::kernels::cuda {

struct Sum {
  static constexpr float kIdentity = 0.0F;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  static constexpr float kIdentity = 0.0F;  // of magnitudes
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <class Op>
__device__ __forceinline__ float warp_reduce(float value, Op op) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = op(value, __shfl_xor_sync(0xFFFFFFFFU, value, mask));
  return value;
}

// The same result in all threads; the block is whole warps, at most 32. Synchronises the block.
template <class Op>
__device__ float block_reduce(float value, Op op) {
  __shared__ float warps[32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int num_warps = static_cast<int>(blockDim.x) / 32;
  value = warp_reduce(value, op);
  __syncthreads();
  if (lane == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_reduce(lane < num_warps ? warps[lane] : Op::kIdentity, op);
}

}  // namespace nibble::kernels::cuda
