// Merges the partial results of query rows that several parts worked on, in the order of the parts; rows that
// see nothing become zero.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kVectors = kMlaLatent / 4;  // threads of one slice: four columns each

// kSlices slices of 128 threads share the parts of one row and head; a block takes heads_per_block heads.
template <int kSlices>
__global__ void __launch_bounds__(kSlices* kVectors) mla_combine_kernel(MlaFast launch, int heads_per_block) {
  __shared__ float4 slices[kSlices][kVectors];
  __shared__ float slice_sums[kSlices];
  wait_for_earlier_kernels();
  const MlaSplits splits = launch.splits[blockIdx.x];
  if (splits.num_parts == 1) return;
  const int column = static_cast<int>(threadIdx.x) % kVectors;
  const int slice = static_cast<int>(threadIdx.x) / kVectors;
  const int first_head = static_cast<int>(blockIdx.y) * heads_per_block;
  const int last_head = min(first_head + heads_per_block, launch.base.num_heads);
  for (int head = first_head; head < last_head; ++head) {
    const int group = launch.num_groups > 1 ? head / kMlaRows : 0;
    const int row = launch.num_groups > 1 ? head % kMlaRows : splits.token * launch.base.num_heads + head;
    // The first part's slot is that of a unit it begins, the others' that of one begun before.
    const auto at = [&](int i) {
      const int slot = 2 * (splits.first_part + i) + (i == 0 ? 1 : 0);
      return (static_cast<std::int64_t>(slot) * launch.num_groups + group) * kMlaRows + row;
    };
    // The first parts' results are asked for before their weights are known.
    constexpr int kAhead = 4;
    const auto* partial = reinterpret_cast<const float4*>(launch.partial_o);
    float4 ahead[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = slice + j * kSlices;
      if (i < splits.num_parts) ahead[j] = partial[at(i) * kVectors + column];
    }
    float top = -INFINITY;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < splits.num_parts; i += 32) {
      top = fmaxf(top, launch.partial_ml[at(i)].x);
    }
    for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, mask));
    float4 o = {0.0F, 0.0F, 0.0F, 0.0F};
    float sum = 0.0F;
    const auto add = [&](int i, float4 v) {
      const float2 ml = launch.partial_ml[at(i)];
      const float factor = exp2f(ml.x - top);
      sum += ml.y * factor;
      o = {o.x + v.x * factor, o.y + v.y * factor, o.z + v.z * factor, o.w + v.w * factor};
    };
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = slice + j * kSlices;
      if (i < splits.num_parts) add(i, ahead[j]);
    }
#pragma unroll 4
    for (int i = slice + kAhead * kSlices; i < splits.num_parts; i += kSlices) {
      add(i, partial[at(i) * kVectors + column]);
    }
    if constexpr (kSlices > 1) {
      slices[slice][column] = o;
      if (column == 0) slice_sums[slice] = sum;
      __syncthreads();
      if (slice == 0) {
        for (int i = 1; i < kSlices; ++i) {
          const float4 v = slices[i][column];
          o = {o.x + v.x, o.y + v.y, o.z + v.z, o.w + v.w};
          sum += slice_sums[i];
        }
      }
      __syncthreads();
    }
    if (slice != 0) continue;
    const float factor = splits.num_parts > 0 ? 1.0F / sum : 0.0F;
    const Heads& out = launch.base.o;
    float* to = out.data + blockIdx.x * out.row_stride + head * out.head_stride;
    reinterpret_cast<float4*>(to)[column] = {o.x * factor, o.y * factor, o.z * factor, o.w * factor};
  }
}

// Starts while the attention kernel drains; it waits for its results itself.
template <int kSlices>
void launch_combine(cudaStream_t stream, const MlaFast& launch, int heads_per_block) {
  const dim3 grid(static_cast<unsigned>(launch.base.num_rows),
                  static_cast<unsigned>((launch.base.num_heads + heads_per_block - 1) / heads_per_block));
  launch_overlapped(mla_combine_kernel<kSlices>, grid, kSlices * kVectors, 0, stream, launch,
                    heads_per_block);
}

}  // namespace

void launch_mla_combine(cudaStream_t stream, const MlaFast& launch) {
  // Few rows are split into many parts, many rows into few or not at all.
  constexpr std::int64_t kFewHeads = 1056;
  constexpr std::int64_t kManyHeads = 2048;
  constexpr std::int64_t kMaxHeadsPerBlock = 8;
  const std::int64_t heads = launch.base.num_rows * launch.base.num_heads;
  if (heads <= kFewHeads) {
    launch_combine<4>(stream, launch, 1);
  } else {
    const std::int64_t per_block = std::clamp<std::int64_t>(heads / kManyHeads, 1, kMaxHeadsPerBlock);
    launch_combine<1>(stream, launch, static_cast<int>(per_block));
  }
}

}  // namespace nibble::kernels::cuda
