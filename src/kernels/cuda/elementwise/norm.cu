// rms_norm and add. A thread takes four neighbouring values, in one access where alignment lets it: which
// values a thread sums does not depend on alignment, so neither does the result.
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/elementwise/reduce.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kVector = 4;

__device__ __forceinline__ bool aligned16(const void* p) {
  return (reinterpret_cast<std::uintptr_t>(p) & 15U) == 0;
}

// Values [at, at + 4) of a row of d; those past it are zero.
__device__ __forceinline__ float4 load4(const float* row, std::int64_t at, std::int64_t d) {
  if (at + kVector <= d && aligned16(row + at)) return *reinterpret_cast<const float4*>(row + at);
  float4 v = {0.0F, 0.0F, 0.0F, 0.0F};
  if (at < d) v.x = row[at];
  if (at + 1 < d) v.y = row[at + 1];
  if (at + 2 < d) v.z = row[at + 2];
  if (at + 3 < d) v.w = row[at + 3];
  return v;
}

__device__ __forceinline__ void store4(float* row, std::int64_t at, std::int64_t d, float4 v) {
  if (at + kVector <= d && aligned16(row + at)) {
    *reinterpret_cast<float4*>(row + at) = v;
    return;
  }
  if (at < d) row[at] = v.x;
  if (at + 1 < d) row[at + 1] = v.y;
  if (at + 2 < d) row[at + 2] = v.z;
  if (at + 3 < d) row[at + 3] = v.w;
}

__device__ __forceinline__ float squares(float4 v) {
  return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
}

// One row a block. The first kKept vectors of a thread stay in registers between the two passes. add.data
// may be null. The weight is no other kernel's output: it is asked for before the row may be read.
__global__ void rms_norm_kernel(Rows x, Rows add, const float* weight, float eps, Rows y, std::int64_t d) {
  constexpr int kKept = 2;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kVector;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kVector;
  float4 weights[kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) weights[i] = load4(weight, first + i * step, d);
  begin_overlapped();
  float* in = x.data + static_cast<std::int64_t>(blockIdx.x) * x.stride;
  const float* more = add.data + static_cast<std::int64_t>(blockIdx.x) * add.stride;
  float* out = y.data + static_cast<std::int64_t>(blockIdx.x) * y.stride;
  const auto load_sum = [&](std::int64_t at) {
    float4 v = load4(in, at, d);
    if (add.data == nullptr) return v;
    const float4 b = load4(more, at, d);
    v = {v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w};
    store4(in, at, d, v);
    return v;
  };
  float4 kept[kKept];
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    kept[i] = load_sum(first + i * step);
    sum += squares(kept[i]);
  }
  for (std::int64_t at = first + kKept * step; at < d; at += step) sum += squares(load_sum(at));
  const float scale = 1.0F / sqrtf(block_reduce(sum, Sum{}) / static_cast<float>(d) + eps);
  const auto normed = [&](float4 v, float4 w, std::int64_t at) {
    store4(out, at, d, {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w});
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) normed(kept[i], weights[i], first + i * step);
  for (std::int64_t at = first + kKept * step; at < d; at += step) {
    normed(load4(in, at, d), load4(weight, at, d), at);
  }
}

__global__ void add_kernel(Rows x, Rows y, std::int64_t vectors_per_row, std::int64_t num_vectors,
                           std::int64_t d) {
  begin_overlapped();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= num_vectors) return;
  const std::int64_t row = i / vectors_per_row;
  const std::int64_t at = i % vectors_per_row * kVector;
  float* out = x.data + row * x.stride;
  const float4 a = load4(out, at, d);
  const float4 b = load4(y.data + row * y.stride, at, d);
  store4(out, at, d, {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w});
}

}  // namespace

void launch_rms_norm(cudaStream_t stream, Rows x, Rows add, const float* weight, float eps, Rows y,
                     std::int64_t m, std::int64_t d) {
  if (m == 0 || d == 0) return;
  const std::int64_t warps = (d + 32 * kVector - 1) / (32 * kVector);
  const int threads = 32 * static_cast<int>(warps < 32 ? warps : 32);
  launch_overlapped(rms_norm_kernel, dim3(static_cast<unsigned>(m)), threads, 0, stream, x, add, weight, eps,
                    y, d);
  check_launch("rms_norm");
}

void launch_add(cudaStream_t stream, Rows x, Rows y, std::int64_t m, std::int64_t d) {
  if (m == 0 || d == 0) return;
  constexpr int kThreads = 128;
  const std::int64_t vectors_per_row = (d + kVector - 1) / kVector;
  const std::int64_t num_vectors = m * vectors_per_row;
  const auto blocks = static_cast<unsigned>((num_vectors + kThreads - 1) / kThreads);
  launch_overlapped(add_kernel, dim3(blocks), kThreads, 0, stream, x, y, vectors_per_row, num_vectors, d);
  check_launch("add");
}

}  // namespace nibble::kernels::cuda
