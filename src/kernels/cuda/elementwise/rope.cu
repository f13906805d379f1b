// rope: one thread rotates one interleaved pair.
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

__global__ void rope_kernel(RopeLaunch r) {
  begin_overlapped();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= r.m * r.heads * r.num_pairs) return;
  const std::int64_t pair = i % r.num_pairs;
  const std::int64_t head = i / r.num_pairs % r.heads;
  const std::int64_t row = i / r.num_pairs / r.heads;
  const std::int64_t position = r.positions[row];
  if (position < 0 || position >= r.max_positions) return;
  float* x = r.x + row * r.row_stride + head * r.head_stride + 2 * pair;
  const float cos = r.cos[position * r.cos_stride + pair];
  const float sin = r.sin[position * r.sin_stride + pair];
  const float even = x[0];
  const float odd = x[1];
  x[0] = even * cos - odd * sin;
  x[1] = odd * cos + even * sin;
}

}  // namespace

void launch_rope(cudaStream_t stream, const RopeLaunch& launch) {
  constexpr int kThreads = 128;
  const std::int64_t num_threads = launch.m * launch.heads * launch.num_pairs;
  if (num_threads == 0) return;
  launch_overlapped(rope_kernel, dim3(static_cast<unsigned>((num_threads + kThreads - 1) / kThreads)),
                    kThreads, 0, stream, launch);
  check_launch("rope");
}

}  // namespace nibble::kernels::cuda
