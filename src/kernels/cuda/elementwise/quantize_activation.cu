// quantize_activation: quantises and dequantises rows as quant/activations.cpp does, bit for bit. A row with
// a value that is not finite stays what it is.
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/cache_codes.cuh"
#include "kernels/cuda/elementwise/reduce.cuh"

namespace nibble::kernels::cuda {
namespace {

constexpr int kGroup = 128;  // inputs that share an FP8 scale
constexpr float kFloor = 1e-12F;
constexpr float kE4m3Max = 448.0F;
constexpr float kRound = 12582912.0F;

__device__ bool row_is_finite(const float* x, std::int64_t k) {
  bool finite = true;
  for (std::int64_t i = threadIdx.x; i < k; i += blockDim.x) finite &= isfinite(x[i]) != 0;
  return __syncthreads_and(finite) != 0;
}

__device__ void copy_row(const float* x, std::int64_t k, float* y) {
  if (x == y) return;
  for (std::int64_t i = threadIdx.x; i < k; i += blockDim.x) y[i] = x[i];
}

// One row a block, one group a warp.
__global__ void fp8_kernel(Rows x, Rows y, std::int64_t k) {
  const float* in = x.data + static_cast<std::int64_t>(blockIdx.x) * x.stride;
  float* out = y.data + static_cast<std::int64_t>(blockIdx.x) * y.stride;
  if (!row_is_finite(in, k)) return copy_row(in, k, out);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) / 32 * kGroup;
  for (std::int64_t begin = static_cast<std::int64_t>(threadIdx.x) / 32 * kGroup; begin < k; begin += step) {
    constexpr int kPerLane = kGroup / 32;
    float values[kPerLane];
    float amax = kFloor;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const std::int64_t at = begin + i * 32 + lane;
      values[i] = at < k ? in[at] : 0.0F;
      amax = fmaxf(amax, fabsf(values[i]));
    }
    const float scale = __fdiv_rn(warp_reduce(amax, Max{}), kE4m3Max);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const std::int64_t at = begin + i * 32 + lane;
      const auto code = fp8_code<CacheCodes::e4m3>(__fdiv_rn(values[i], scale));
      if (at < k) out[at] = fp8_value<CacheCodes::e4m3>(code) * scale;
    }
  }
}

__global__ void int8_kernel(Rows x, Rows y, std::int64_t k) {
  const float* in = x.data + static_cast<std::int64_t>(blockIdx.x) * x.stride;
  float* out = y.data + static_cast<std::int64_t>(blockIdx.x) * y.stride;
  if (!row_is_finite(in, k)) return copy_row(in, k, out);
  float amax = kFloor;
  for (std::int64_t i = threadIdx.x; i < k; i += blockDim.x) amax = fmaxf(amax, fabsf(in[i]));
  const float scale = __fdiv_rn(block_reduce(amax, Max{}), 127.0F);
  for (std::int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    // Adding and taking off 1.5 * 2^23 rounds to the nearest integer, ties to even; zero comes out as +0.
    const float code = __fadd_rn(__fadd_rn(__fdiv_rn(in[i], scale), kRound), -kRound);
    out[i] = fminf(fmaxf(code, -128.0F), 127.0F) * scale;
  }
}

__global__ void copy_kernel(Rows x, Rows y, std::int64_t k) {
  copy_row(x.data + static_cast<std::int64_t>(blockIdx.x) * x.stride, k,
           y.data + static_cast<std::int64_t>(blockIdx.x) * y.stride);
}

unsigned threads_for(std::int64_t k) {
  const std::int64_t warps = (k + kGroup - 1) / kGroup;
  return static_cast<unsigned>(32 * (warps < 32 ? warps : 32));
}

}  // namespace

void launch_quantize_activation(cudaStream_t stream, ActivationCodes codes, Rows x, Rows y, std::int64_t m,
                                std::int64_t k) {
  if (m == 0 || k == 0) return;
  const auto blocks = static_cast<unsigned>(m);
  switch (codes) {
    case ActivationCodes::none:
      if (x.data == y.data) return;
      copy_kernel<<<blocks, threads_for(k), 0, stream>>>(x, y, k);
      break;
    case ActivationCodes::fp8: fp8_kernel<<<blocks, threads_for(k), 0, stream>>>(x, y, k); break;
    case ActivationCodes::int8: int8_kernel<<<blocks, threads_for(k), 0, stream>>>(x, y, k); break;
  }
  check_launch("quantize_activation");
}

}  // namespace nibble::kernels::cuda
