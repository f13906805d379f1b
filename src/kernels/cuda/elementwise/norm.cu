// rms_norm and add. A thread takes four neighbouring values, in one access where alignment lets it: which
// values a thread sums does not depend on alignment, so neither does the result.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/elementwise/reduce.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kVector = 4;
// So few blocks lie idle before their turn comes.
constexpr unsigned kFewRows = 64;

// Values [at, at + 4) of a row of d; those past it are zero. kAligned: rows are aligned to 16 bytes and d is
// a multiple of 4.
template <bool kAligned>
__device__ __forceinline__ float4 load4(const float* row, std::int64_t at, std::int64_t d) {
  float4 v = {0.0F, 0.0F, 0.0F, 0.0F};
  if constexpr (kAligned) {
    if (at < d) v = *reinterpret_cast<const float4*>(row + at);
  } else {
    if (at < d) v.x = row[at];
    if (at + 1 < d) v.y = row[at + 1];
    if (at + 2 < d) v.z = row[at + 2];
    if (at + 3 < d) v.w = row[at + 3];
  }
  return v;
}

template <bool kAligned>
__device__ __forceinline__ void store4(float* row, std::int64_t at, std::int64_t d, float4 v) {
  if constexpr (kAligned) {
    if (at < d) *reinterpret_cast<float4*>(row + at) = v;
  } else {
    if (at < d) row[at] = v.x;
    if (at + 1 < d) row[at + 1] = v.y;
    if (at + 2 < d) row[at + 2] = v.z;
    if (at + 3 < d) row[at + 3] = v.w;
  }
}

__device__ __forceinline__ float4 sum_of(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ __forceinline__ float squares(float4 v) {
  return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
}

// One row: in is read, with more (or null) added and stored back, and out written. Nothing is stored if not
// `real`. The first kKept vectors of a thread stay in registers between the two passes, and all of them are
// asked for before the first is used.
template <bool kAligned>
__device__ __forceinline__ void norm_row(float* in, const float* more, const float* weight, float eps,
                                         float* out, std::int64_t d, bool real) {
  constexpr int kKept = 2;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kVector;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kVector;
  const bool adds = more != nullptr;
  float4 kept[kKept];
  float4 added[kKept] = {};
  float4 weights[kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    kept[i] = load4<kAligned>(in, first + i * step, d);
    if (adds) added[i] = load4<kAligned>(more, first + i * step, d);
    weights[i] = load4<kAligned>(weight, first + i * step, d);
  }
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (adds) {
      kept[i] = sum_of(kept[i], added[i]);
      if (real) store4<kAligned>(in, first + i * step, d, kept[i]);
    }
    sum += squares(kept[i]);
  }
  for (std::int64_t at = first + kKept * step; at < d; at += step) {
    float4 v = load4<kAligned>(in, at, d);
    if (adds) {
      v = sum_of(v, load4<kAligned>(more, at, d));
      if (real) store4<kAligned>(in, at, d, v);
    }
    sum += squares(v);
  }
  const float scale = 1.0F / sqrtf(block_reduce(sum, Sum{}) / static_cast<float>(d) + eps);
  const auto normed = [&](float4 v, float4 w, std::int64_t at) {
    v = {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w};
    if (real) store4<kAligned>(out, at, d, v);
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) normed(kept[i], weights[i], first + i * step);
  for (std::int64_t at = first + kKept * step; at < d; at += step) {
    normed(load4<kAligned>(in, at, d), load4<kAligned>(weight, at, d), at);
  }
}

// One row a block; add.data may be null. Weights that stream by drive instructions and data out of the
// caches, and fetching these is most of what the norm of a few rows takes. So while the kernel in front still
// runs, the row is brought back to L2, and the work is done once for nothing, with the weight as its own
// input.
template <bool kAligned>
__global__ void __launch_bounds__(1024)
    rms_norm_kernel(Rows x, Rows add, const float* weight, float eps, Rows y, std::int64_t d) {
  let_next_kernel_start();
  float* in = x.data + static_cast<std::int64_t>(blockIdx.x) * x.stride;
  const float* more =
      add.data == nullptr ? nullptr : add.data + static_cast<std::int64_t>(blockIdx.x) * add.stride;
  float* out = y.data + static_cast<std::int64_t>(blockIdx.x) * y.stride;
  for (std::int64_t at = static_cast<std::int64_t>(threadIdx.x) * 32; at < d;
       at += std::int64_t{blockDim.x} * 32) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(in + at));
  }
#pragma unroll 1
  for (int pass = gridDim.x <= kFewRows ? 0 : 1; pass < 2; ++pass) {
    const bool real = pass == 1;
    if (real) wait_for_earlier_kernels();
    norm_row<kAligned>(real ? in : const_cast<float*>(weight), real || more == nullptr ? more : weight,
                       weight, eps, out, d, real);
  }
}

// Many rows: a block takes every gridDim.x-th, rows ahead come by bulk copies while one is worked on. Each
// thread has the vectors that it has in rms_norm_kernel, all in registers, and adds them in the same order.
constexpr int kMaxStages = 4;
constexpr int kStreamVectors = 2;  // of a thread
template <bool kAdds>
__global__ void __launch_bounds__(1024, 1)
    rms_norm_stream_kernel(Rows x, Rows add, const float* weight, float eps, Rows y, int m, int d,
                           int stages) {
  let_next_kernel_start();
  extern __shared__ __align__(16) float ring[];  // [stage]{x, add}
  __shared__ std::uint64_t filled[kMaxStages];
  constexpr int kOperands = kAdds ? 2 : 1;
  const int first = static_cast<int>(threadIdx.x) * kVector;
  const int step = static_cast<int>(blockDim.x) * kVector;
  float4 weights[kStreamVectors];
#pragma unroll
  for (int i = 0; i < kStreamVectors; ++i) weights[i] = load4<true>(weight, first + i * step, d);
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) mbarrier_init(shared_address(filled + i), 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  wait_for_earlier_kernels();
  const auto request = [&](int row, int stage) {
    if (threadIdx.x != 0 || row >= m) return;
    const std::uint32_t barrier = shared_address(filled + stage);
    const std::uint32_t to = shared_address(ring + stage * kOperands * d);
    const std::uint32_t bytes = static_cast<std::uint32_t>(d) * 4;
    mbarrier_expect(barrier, kOperands * bytes);
    bulk_copy(to, x.data + row * x.stride, bytes, barrier);
    if (kAdds) bulk_copy(to + bytes, add.data + row * add.stride, bytes, barrier);
  };
  for (int i = 0; i < stages; ++i) request(static_cast<int>(blockIdx.x + i * gridDim.x), i);
  int stage = 0;
  std::uint32_t parity = 0;
  for (int row = static_cast<int>(blockIdx.x); row < m; row += static_cast<int>(gridDim.x)) {
    mbarrier_wait(shared_address(filled + stage), parity);
    const float* in = ring + stage * kOperands * d;
    float4 kept[kStreamVectors];
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kStreamVectors; ++i) {
      const int at = first + i * step;
      kept[i] = load4<true>(in, at, d);
      if (kAdds) {
        kept[i] = sum_of(kept[i], load4<true>(in + d, at, d));
        store4<true>(x.data + row * x.stride, at, d, kept[i]);
      }
      sum += squares(kept[i]);
    }
    const float scale = 1.0F / sqrtf(block_reduce(sum, Sum{}) / static_cast<float>(d) + eps);
    // Everybody has read the stage.
    request(row + stages * static_cast<int>(gridDim.x), stage);
    if (++stage == stages) {
      stage = 0;
      parity ^= 1U;
    }
#pragma unroll
    for (int i = 0; i < kStreamVectors; ++i) {
      const float4 v = kept[i];
      const float4 w = weights[i];
      store4<true>(y.data + row * y.stride, first + i * step, d,
                   {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w});
    }
  }
}

template <bool kAligned>
__global__ void add_kernel(Rows x, Rows y, std::int64_t vectors_per_row, std::int64_t num_vectors,
                           std::int64_t d) {
  begin_overlapped();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= num_vectors) return;
  const std::int64_t row = i / vectors_per_row;
  const std::int64_t at = i % vectors_per_row * kVector;
  float* out = x.data + row * x.stride;
  const float4 a = load4<kAligned>(out, at, d);
  const float4 b = load4<kAligned>(y.data + row * y.stride, at, d);
  store4<kAligned>(out, at, d, sum_of(a, b));
}

bool aligned(const float* data, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % kVector == 0;
}
bool aligned(Rows rows) { return aligned(rows.data, rows.stride); }

int num_sms() {
  static const int count = [] {
    int device = 0;
    int value = 1;
    check(cudaGetDevice(&device), "device");
    check(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device), "number of SMs");
    return value;
  }();
  return count;
}

// Whether rms_norm_stream_kernel takes these rows.
bool streams(std::int64_t m, std::int64_t d, bool vectors) {
  constexpr std::int64_t kManyRows = 512;
  return vectors && m >= kManyRows && m <= INT32_MAX / 2 && d <= 1024 * kVector * kStreamVectors;
}

void launch_stream(cudaStream_t stream, Rows x, Rows add, const float* weight, float eps, Rows y, int m,
                   int d, int threads) {
  constexpr int kSharedBytes = 200 * 1024;
  const int row_bytes = d * 4 * (add.data == nullptr ? 1 : 2);
  const int blocks = threads <= 512 ? 2 : 1;  // of an SM
  const int stages = std::min(kMaxStages, kSharedBytes / blocks / row_bytes);
  auto* kernel = add.data == nullptr ? rms_norm_stream_kernel<false> : rms_norm_stream_kernel<true>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), "rms_norm");
  launch_overlapped(kernel, dim3(static_cast<unsigned>(std::min(m, blocks * num_sms()))), threads,
                    stages * row_bytes, stream, x, add, weight, eps, y, m, d, stages);
}

}  // namespace

void launch_rms_norm(cudaStream_t stream, Rows x, Rows add, const float* weight, float eps, Rows y,
                     std::int64_t m, std::int64_t d) {
  if (m == 0 || d == 0) return;
  const std::int64_t warps = (d + 32 * kVector - 1) / (32 * kVector);
  const int threads = 32 * static_cast<int>(warps < 32 ? warps : 32);
  const bool vectors = aligned(x) && aligned(add) && aligned(y) && aligned(weight, d);
  if (streams(m, d, vectors)) {
    launch_stream(stream, x, add, weight, eps, y, static_cast<int>(m), static_cast<int>(d), threads);
    return check_launch("rms_norm");
  }
  launch_overlapped(vectors ? rms_norm_kernel<true> : rms_norm_kernel<false>, dim3(static_cast<unsigned>(m)),
                    threads, 0, stream, x, add, weight, eps, y, d);
  check_launch("rms_norm");
}

void launch_add(cudaStream_t stream, Rows x, Rows y, std::int64_t m, std::int64_t d) {
  if (m == 0 || d == 0) return;
  constexpr int kThreads = 128;
  const std::int64_t vectors_per_row = (d + kVector - 1) / kVector;
  const std::int64_t num_vectors = m * vectors_per_row;
  const auto blocks = static_cast<unsigned>((num_vectors + kThreads - 1) / kThreads);
  const bool vectors = aligned(x) && aligned(y) && d % kVector == 0;
  launch_overlapped(vectors ? add_kernel<true> : add_kernel<false>, dim3(blocks), kThreads, 0, stream, x, y,
                    vectors_per_row, num_vectors, d);
  check_launch("add");
}

}  // namespace nibble::kernels::cuda
