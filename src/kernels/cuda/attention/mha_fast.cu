// Attention of one sequence's chunk on tensor cores, for keys of 128 + 64 and values of 128. A block takes
// 128 query rows of one head through the entries they see, 64 at a time; its warps take 16 rows each. Keys
// and values arrive as float32 by asynchronous copies while the tile before is worked on, and are rounded to
// bf16 on the way to the tile the products read.
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/panels.cuh"
#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kNope = 128;
constexpr int kRope = 64;
constexpr int kKey = kNope + kRope;
constexpr int kValue = 128;
constexpr int kRows = 128;
constexpr int kTile = 64;
constexpr int kThreads = 256;
// Padded so that eight rows lie in different banks.
constexpr int kKeyStride = kKey + 8;
constexpr int kValueStride = kValue + 8;

struct Shared {
  alignas(16) float keys_f32[kTile][kKey];
  alignas(16) float values_f32[kTile][kValue];
  alignas(16) std::uint16_t keys[kTile][kKeyStride];
  alignas(16) std::uint16_t values[kTile][kValueStride];
};

// Copies 16 bytes, or zeros where there is nothing to copy.
__device__ __forceinline__ void copy_async(void* to, const float* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}

__device__ void copy_tile(const MhaLaunch& launch, std::int64_t head, std::int64_t begin, Shared& shared) {
  const float* k_nope = launch.k_nope.data + head * launch.k_nope.head_stride;
  const float* v = launch.v.data + head * launch.v.head_stride;
  const int thread = static_cast<int>(threadIdx.x);
  const auto entry_of = [&](int row) { return begin + row < launch.length ? begin + row : 0; };
#pragma unroll 4
  for (int i = thread; i < kTile * kNope / 4; i += kThreads) {
    const int row = i / (kNope / 4);
    const int column = i % (kNope / 4) * 4;
    copy_async(&shared.keys_f32[row][column], k_nope + entry_of(row) * launch.k_nope.row_stride + column,
               begin + row < launch.length);
    copy_async(&shared.values_f32[row][column], v + entry_of(row) * launch.v.row_stride + column,
               begin + row < launch.length);
  }
#pragma unroll
  for (int i = thread; i < kTile * kRope / 4; i += kThreads) {
    const int row = i / (kRope / 4);
    const int column = i % (kRope / 4) * 4;
    copy_async(&shared.keys_f32[row][kNope + column],
               launch.k_pe.data + entry_of(row) * launch.k_pe.stride + column, begin + row < launch.length);
  }
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

template <int kColumns, int kStride>
__device__ void round_tile(const float (&from)[kTile][kColumns], std::uint16_t (&to)[kTile][kStride]) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kColumns / 4; i += kThreads) {
    const int row = i / (kColumns / 4);
    const int column = i % (kColumns / 4) * 4;
    const float4 v = *reinterpret_cast<const float4*>(&from[row][column]);
    *reinterpret_cast<uint2*>(&to[row][column]) = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
  }
}

// What a warp keeps of its 16 rows; lane 4g + t has rows g and g + 8 of every fragment.
struct WarpRows {
  std::uint32_t q[kKey / 16][4];
  float o[kValue / 8][4];
  float top[2];
  float sum[2];
};

__device__ void load_query(const MhaLaunch& launch, std::int64_t head, const std::int64_t (&rows)[2],
                           WarpRows& warp) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float* nope =
        launch.q_nope.data + rows[i] * launch.q_nope.row_stride + head * launch.q_nope.head_stride;
    const float* pe = launch.q_pe.data + rows[i] * launch.q_pe.row_stride + head * launch.q_pe.head_stride;
#pragma unroll
    for (int step = 0; step < kKey / 16; ++step) {
      const float* q = step < kNope / 16 ? nope + step * 16 : pe + step * 16 - kNope;
      const float2 low = *reinterpret_cast<const float2*>(q + 2 * t);
      const float2 high = *reinterpret_cast<const float2*>(q + 2 * t + 8);
      warp.q[step][i] = bf16_pair(low.x, low.y);
      warp.q[step][2 + i] = bf16_pair(high.x, high.y);
    }
  }
}

__device__ void score_tile(const Shared& shared, const WarpRows& warp, float (&s)[kTile / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Of four 8 x 8 matrices: entries 0-7 and 8-15, columns 0-7 and 8-15.
  const int entry = lane % 8 + lane / 16 * 8;
  const int column = lane / 8 % 2 * 8;
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0F;
#pragma unroll
  for (int step = 0; step < kKey / 16; ++step) {
#pragma unroll
    for (int j = 0; j < kTile / 16; ++j) {
      std::uint32_t b[4];
      load_matrices(b, shared_address(&shared.keys[j * 16 + entry][step * 16 + column]));
      mma_bf16(s[2 * j], warp.q[step], b[0], b[1]);
      mma_bf16(s[2 * j + 1], warp.q[step], b[2], b[3]);
    }
  }
}

// Scores to probabilities (bf16 A fragments of the entries' k16 steps), o and sums scaled to the new maximum.
__device__ void soften(float (&s)[kTile / 8][4], float scale, WarpRows& warp,
                       std::uint32_t (&p)[kTile / 16][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float top = -INFINITY;
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 2));
    const float new_top = fmaxf(warp.top[i], top * scale);
    const float factor = exp2_approx(warp.top[i] - new_top);
    warp.top[i] = new_top;
    float sum = 0.0F;
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j) {
      const float a = exp2_approx(fmaf(s[j][2 * i], scale, -new_top));
      const float b = exp2_approx(fmaf(s[j][2 * i + 1], scale, -new_top));
      sum += a + b;
      p[j / 2][j % 2 * 2 + i] = bf16_pair(a, b);
    }
    warp.sum[i] = warp.sum[i] * factor + sum;
#pragma unroll
    for (int j = 0; j < kValue / 8; ++j) {
      warp.o[j][2 * i] *= factor;
      warp.o[j][2 * i + 1] *= factor;
    }
  }
}

__device__ void add_values(const Shared& shared, const std::uint32_t (&p)[kTile / 16][4], WarpRows& warp) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int entry = lane % 16;
  const int column = lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < kTile / 16; ++step) {
#pragma unroll
    for (int j = 0; j < kValue / 16; ++j) {
      std::uint32_t b[4];
      load_matrices_transposed(b, shared_address(&shared.values[step * 16 + entry][j * 16 + column]));
      mma_bf16(warp.o[2 * j], p[step], b[0], b[1]);
      mma_bf16(warp.o[2 * j + 1], p[step], b[2], b[3]);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1) mha_fast_kernel(const __grid_constant__ MhaLaunch launch) {
  extern __shared__ std::uint8_t raw[];
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t head = blockIdx.y;
  // The last rows see most: they go first.
  const std::int64_t block_row = static_cast<std::int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  const std::int64_t warp_row = block_row + static_cast<int>(threadIdx.x) / 32 * 16;
  const std::int64_t rows[2] = {warp_row + lane / 4, warp_row + lane / 4 + 8};
  const std::int64_t first_position = launch.length - launch.num_rows;
  const std::int64_t clamped[2] = {min(rows[0], launch.num_rows - 1), min(rows[1], launch.num_rows - 1)};
  const float scale = launch.scale * 1.44269504F;  // log2(e)

  copy_tile(launch, head, 0, shared);
  WarpRows warp;
  load_query(launch, head, clamped, warp);
#pragma unroll
  for (int j = 0; j < kValue / 8; ++j) warp.o[j][0] = warp.o[j][1] = warp.o[j][2] = warp.o[j][3] = 0.0F;
  warp.top[0] = warp.top[1] = -INFINITY;
  warp.sum[0] = warp.sum[1] = 0.0F;

  const std::int64_t num_entries = min(launch.length, first_position + block_row + kRows);
  for (std::int64_t begin = 0; begin < num_entries; begin += kTile) {
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
    __syncthreads();
    round_tile(shared.keys_f32, shared.keys);
    round_tile(shared.values_f32, shared.values);
    __syncthreads();
    if (begin + kTile < num_entries) copy_tile(launch, head, begin + kTile, shared);
    if (begin > first_position + warp_row + 15) continue;
    float s[kTile / 8][4];
    score_tile(shared, warp, s);
    if (begin + kTile > first_position + warp_row + 1) {
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const std::int64_t entry = begin + j * 8 + lane % 4 * 2 + i % 2;
          if (entry > first_position + rows[i / 2]) s[j][i] = -INFINITY;
        }
      }
    }
    std::uint32_t p[kTile / 16][4];
    soften(s, scale, warp, p);
    add_values(shared, p, warp);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = warp.sum[i];
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
    if (rows[i] >= launch.num_rows) continue;
    float* o = launch.o.data + rows[i] * launch.o.row_stride + head * launch.o.head_stride + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kValue / 8; ++j) {
      *reinterpret_cast<float2*>(o + j * 8) = {warp.o[j][2 * i] / sum, warp.o[j][2 * i + 1] / sum};
    }
  }
}

bool aligned(const Heads& t) {
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.row_stride % 4 == 0 &&
         t.head_stride % 4 == 0;
}

}  // namespace

bool mha_fast_supports(const MhaLaunch& launch) {
  return launch.d_nope == kNope && launch.d_rope == kRope && launch.d_v == kValue && launch.scale > 0.0F &&
         aligned(launch.q_nope) && aligned(launch.q_pe) && aligned(launch.k_nope) && aligned(launch.v) &&
         aligned(launch.o) && reinterpret_cast<std::uintptr_t>(launch.k_pe.data) % 16 == 0 &&
         launch.k_pe.stride % 4 == 0;
}

void launch_mha_fast(cudaStream_t stream, const MhaLaunch& launch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  constexpr int kBytes = static_cast<int>(sizeof(Shared));
  check(cudaFuncSetAttribute(mha_fast_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory of mha");
  const dim3 grid(static_cast<unsigned>((launch.num_rows + kRows - 1) / kRows),
                  static_cast<unsigned>(launch.num_heads));
  mha_fast_kernel<<<grid, kThreads, kBytes, stream>>>(launch);
  check_launch("mha");
}

}  // namespace nibble::kernels::cuda
