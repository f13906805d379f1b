// rope: a thread rotates one or two interleaved pairs of several heads of a row.
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// What a thread rotates at a time: one pair as it lies, two as one vector.
template <int kPairs>
struct alignas(kPairs == 2 ? 16 : 4) Pairs {
  float v[2 * kPairs];
};
template <int kPairs>
struct alignas(kPairs == 2 ? 8 : 4) Angles {
  float v[kPairs];
};

// grid: x = rows, y = kItems * kThreads vectors of a row each. The loads of a thread's items are under way
// together.
template <int kPairs, int kItems>
__global__ void __launch_bounds__(kThreads) rope_kernel(const __grid_constant__ RopeLaunch r) {
  begin_overlapped();
  const std::int64_t row = blockIdx.x;
  const std::int64_t position = r.positions[row];
  if (position < 0 || position >= r.max_positions) return;
  const auto units = static_cast<unsigned>(r.num_pairs) / kPairs;  // of a head
  const unsigned num_items = static_cast<unsigned>(r.heads) * units;
  const unsigned first = blockIdx.y * (kItems * kThreads) + threadIdx.x;
  Pairs<kPairs>* at[kItems];
  Pairs<kPairs> x[kItems];
  Angles<kPairs> cos[kItems];
  Angles<kPairs> sin[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned item = first + static_cast<unsigned>(i) * kThreads;
    if (item >= num_items) break;
    const std::int64_t column = item % units * kPairs;
    at[i] = reinterpret_cast<Pairs<kPairs>*>(r.x + row * r.row_stride + item / units * r.head_stride +
                                             2 * column);
    x[i] = *at[i];
    cos[i] = *reinterpret_cast<const Angles<kPairs>*>(r.cos + position * r.cos_stride + column);
    sin[i] = *reinterpret_cast<const Angles<kPairs>*>(r.sin + position * r.sin_stride + column);
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + static_cast<unsigned>(i) * kThreads >= num_items) break;
    Pairs<kPairs> rotated;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float even = x[i].v[2 * j];
      const float odd = x[i].v[2 * j + 1];
      rotated.v[2 * j] = even * cos[i].v[j] - odd * sin[i].v[j];
      rotated.v[2 * j + 1] = odd * cos[i].v[j] + even * sin[i].v[j];
    }
    *at[i] = rotated;
  }
}

template <int kPairs, int kItems>
void launch_items(cudaStream_t stream, const RopeLaunch& launch) {
  const std::int64_t items = launch.heads * (launch.num_pairs / kPairs);
  constexpr std::int64_t kOfBlock = kItems * kThreads;
  launch_overlapped(
      rope_kernel<kPairs, kItems>,
      dim3(static_cast<unsigned>(launch.m), static_cast<unsigned>((items + kOfBlock - 1) / kOfBlock)),
      kThreads, 0, stream, launch);
}

template <int kPairs>
void launch_pairs(cudaStream_t stream, const RopeLaunch& launch) {
  // Few rows spread over the device; many take fewer, longer blocks.
  constexpr std::int64_t kFewRows = 64;
  if (launch.m <= kFewRows) {
    launch_items<kPairs, 1>(stream, launch);
  } else {
    launch_items<kPairs, 4>(stream, launch);
  }
}

bool takes_two_pairs(const RopeLaunch& r) {
  const auto aligned = [](const float* data, std::int64_t stride, int floats) {
    return reinterpret_cast<std::uintptr_t>(data) % (sizeof(float) * floats) == 0 && stride % floats == 0;
  };
  return r.num_pairs % 2 == 0 && r.head_stride % 4 == 0 && aligned(r.x, r.row_stride, 4) &&
         aligned(r.cos, r.cos_stride, 2) && aligned(r.sin, r.sin_stride, 2);
}

}  // namespace

void launch_rope(cudaStream_t stream, const RopeLaunch& launch) {
  if (launch.m * launch.heads * launch.num_pairs == 0) return;
  if (takes_two_pairs(launch)) {
    launch_pairs<2>(stream, launch);
  } else {
    launch_pairs<1>(stream, launch);
  }
  check_launch("rope");
}

}  // namespace nibble::kernels::cuda
