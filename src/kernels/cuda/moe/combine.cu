#include "kernels/cuda/moe/combine.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/moe/stage_tokens.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAll = 0xFFFFFFFFU;

// The outputs of a token to be added, in order: those of the shared experts, then the slots by ascending
// expert, -1 left out. By the whole block; returns how many.
__device__ __forceinline__ int order_outputs(const MoeParams& p, int token, std::int32_t* order) {
  __shared__ int num_valid;
  const std::int32_t* ids = p.ids + std::int64_t{token} * p.topk;
  const int shared = p.shared.count;
  if (threadIdx.x == 0) num_valid = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < shared; i += kThreads) order[i] = i;
  for (int i = static_cast<int>(threadIdx.x); i < p.topk; i += kThreads) {
    const std::int32_t id = ids[i];
    if (id < 0) continue;
    int rank = 0;
    for (int j = 0; j < p.topk; ++j) {
      rank += static_cast<int>(ids[j] >= 0 && (ids[j] < id || (ids[j] == id && j < i)));
    }
    order[shared + rank] = shared + i;
    atomicAdd(&num_valid, 1);
  }
  __syncthreads();
  return shared + num_valid;
}

__device__ __forceinline__ float load_output(const float* from) { return __ldcs(from); }
__device__ __forceinline__ float load_output(const std::uint16_t* from) { return low_float(__ldcs(from)); }

// One thread per output column of one token. Shared experts have outputs in p.partial only. Of a few tokens,
// most of the time would go to fetching the instructions, which weights that stream by drive out of the
// caches: so the work is done once for nothing while the kernel in front still runs, on the weights of the
// route, and y is brought back to L2.
template <bool kBf16>
__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ MoeParams p) {
  constexpr int kFewTokens = 8;
  using Output = std::conditional_t<kBf16, std::uint16_t, float>;
  let_next_kernel_start();
  extern __shared__ std::int32_t order[];
  const int token = static_cast<int>(blockIdx.x);
  const int num_outputs = order_outputs(p, token, order);
  const int column = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const bool is_used = column < p.down.n && num_outputs > 0;
  float* y = p.y + token * p.y_stride + column;
  const bool is_few = p.m <= kFewTokens;
  if (is_used && is_few && threadIdx.x % kWarp == 0) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(y));
  }
#pragma unroll 1
  for (int pass = is_few ? 0 : 1; pass < 2; ++pass) {
    const bool real = pass == 1;
    if (real) wait_for_earlier_kernels();
    if (!is_used) continue;
    const auto* outputs = reinterpret_cast<const Output*>(p.weights);
    std::int64_t step = 0;
    if (real) {
      if constexpr (kBf16) {
        step = partial_row(p);
        outputs = p.partial_bf16;
      } else {
        step = p.down.n;
        outputs = p.partial;
      }
      outputs += std::int64_t{token} * slots_of_token(p) * step + column;
    }
    float sum = real ? *y : 0.0F;
#pragma unroll 8
    for (int i = 0; i < num_outputs; ++i) sum += load_output(outputs + order[i] * step);
    if (real) {
      *y = sum;
    } else {
      asm volatile("" ::"f"(sum));
    }
  }
}

// One block per token, eight neighbouring columns a thread; the bf16 outputs of eight experts are asked for
// at once. Adds in the same order as combine_kernel.
__global__ void __launch_bounds__(kThreads, 3) combine_many_kernel(const __grid_constant__ MoeParams p) {
  constexpr int kAtOnce = 8;
  let_next_kernel_start();
  extern __shared__ std::int32_t order[];
  const int token = static_cast<int>(blockIdx.x);
  const int num_outputs = order_outputs(p, token, order);
  wait_for_earlier_kernels();
  if (num_outputs == 0) return;
  const std::int64_t row = partial_row(p) / 8;
  const auto* partial = reinterpret_cast<const uint4*>(p.partial_bf16) + std::int64_t{token} * p.topk * row;
  for (int at = static_cast<int>(threadIdx.x); at < p.down.n / 8; at += kThreads) {
    auto* y = reinterpret_cast<float4*>(p.y + token * p.y_stride) + 2 * at;
    float4 low = y[0];
    float4 high = y[1];
    for (int first = 0; first < num_outputs; first += kAtOnce) {
      uint4 parts[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i < num_outputs) parts[i] = __ldcs(partial + order[first + i] * row + at);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i >= num_outputs) break;
        const uint4& v = parts[i];
        low = {low.x + low_float(v.x), low.y + high_float(v.x), low.z + low_float(v.y),
               low.w + high_float(v.y)};
        high = {high.x + low_float(v.z), high.y + high_float(v.z), high.z + low_float(v.w),
                high.w + high_float(v.w)};
      }
    }
    y[0] = low;
    y[1] = high;
  }
}

__device__ float warp_max(float value) {
  for (int d = kWarp / 2; d > 0; d /= 2) value = fmaxf(value, __shfl_xor_sync(kAll, value, d));
  return value;
}

__device__ float block_max(float value) {
  __shared__ float warps[kThreads / kWarp];
  value = warp_max(value);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  float top = 0.0F;
  for (float w : warps) top = fmaxf(top, w);
  __syncthreads();
  return top;
}

__device__ float round_e4m3(float value) {
  const __nv_fp8_storage_t code = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
}

constexpr int kFp8Group = 128;
constexpr float kFloor = 1e-12F;
constexpr float kE4m3Max = 448.0F;

// One block per row. Rows with a value that is not finite stay as they are, as on the host.
__global__ void __launch_bounds__(kThreads)
    quantize_hidden_kernel(const __grid_constant__ MoeParams p, Hidden format) {
  const std::int64_t width = p.h_row;
  const int k = p.down.k;
  const float* in = p.h_f32 + blockIdx.x * width;
  std::uint16_t* out = p.h + blockIdx.x * width;
  float top = 0.0F;
  int broken = 0;
  for (int i = static_cast<int>(threadIdx.x); i < k; i += kThreads) {
    top = fmaxf(top, fabsf(in[i]));
    broken |= static_cast<int>(!isfinite(in[i]));
  }
  const bool plain = __syncthreads_or(broken) != 0;
  top = block_max(top);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int begin = warp * kFp8Group; begin < width; begin += kThreads / kWarp * kFp8Group) {
    float values[kFp8Group / kWarp];
    float group_top = 0.0F;
    for (int j = 0; j < kFp8Group / kWarp; ++j) {
      const int i = begin + j * kWarp + lane;
      values[j] = i < k ? in[i] : 0.0F;
      group_top = fmaxf(group_top, fabsf(values[j]));
    }
    group_top = warp_max(group_top);
    const float scale =
        format == Hidden::fp8 ? fmaxf(group_top, kFloor) / kE4m3Max : fmaxf(top, kFloor) / 127.0F;
    for (int j = 0; j < kFp8Group / kWarp; ++j) {
      const int i = begin + j * kWarp + lane;
      float value = values[j];
      if (!plain && format == Hidden::fp8) value = round_e4m3(value / scale) * scale;
      if (!plain && format == Hidden::int8) {
        value = fminf(fmaxf(rintf(value / scale), -128.0F), 127.0F) * scale;
      }
      if (i < width) out[fragment_position(i)] = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    }
  }
}

}  // namespace

void launch_quantize_hidden(const MoeParams& p, std::int64_t rows, cudaStream_t stream) {
  quantize_hidden_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(p, p.hidden);
}

void launch_combine(const MoeParams& p, cudaStream_t stream) {
  const bool vectors =
      p.down.n % 8 == 0 && p.y_stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(p.y) % 16 == 0;
  const bool many = p.partial_bf16 != nullptr && vectors;
  const int columns = (p.down.n + kThreads - 1) / kThreads;
  // Whole vectors: the compiler reads `order` four at a time.
  constexpr int kVector = 4;
  const int slots = (slots_of_token(p) + kVector - 1) / kVector * kVector;
  auto* one_column = p.partial_bf16 != nullptr ? combine_kernel<true> : combine_kernel<false>;
  launch_overlapped(many ? combine_many_kernel : one_column,
                    dim3(static_cast<unsigned>(p.m), static_cast<unsigned>(many ? 1 : columns)), kThreads,
                    slots * static_cast<int>(sizeof(std::int32_t)), stream, p);
}

}  // namespace nibble::kernels::cuda::moe
