#include "kernels/cuda/moe/reference.h"

#include "kernels/cuda/fragment.cuh"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xFFFFFFFFU;

// Rows g and g + 8 of a row tile times one vector, by one warp.
template <Format F>
__device__ void multiply_rows(const PackedWeight& w, int expert, int tile, const float* x, int lane,
                              float (&sums)[2]) {
  const TileAddress at = tile_address(w, expert, tile);
  const std::int32_t* permutation = permutation_of(w, expert);
  const auto input = [&](int column) {
    const int i = permutation == nullptr ? column : permutation[column];
    return i >= 0 && i < w.k ? x[i] : 0.0F;
  };
  sums[0] = sums[1] = 0.0F;
  for (int block = 0; block < w.num_blocks; ++block) {
    LaneCodes<F> codes;
    codes.load(at.codes + block * block_bytes(F), lane);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      float scale[2];
      const RowOperands operands = load_operands<F>(w, at.scales, block, step, lane, scale);
      float weights[8];
      decode_floats(codes, step, operands, weights);
      const int column = block * kBlockK + step * 16 + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // pair i / 2: row g + 8 (i / 2 % 2), columns from 8 (i / 4)
        sums[i / 2 % 2] += scale[i / 2 % 2] * weights[i] * input(column + i / 4 * 8 + i % 2);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int d = 1; d < 4; d *= 2) sums[r] += __shfl_xor_sync(kAll, sums[r], d);
    sums[r] *= row_factor(w, at.scales, lane / 4 + 8 * r);
  }
}

// A warp per slot (blockIdx.x) and row tile (blockIdx.y).
template <Format F>
__global__ void __launch_bounds__(kWarp) first_kernel(const __grid_constant__ MoeParams p, float* hidden) {
  const int slot = static_cast<int>(blockIdx.x);
  const int expert = p.ids[slot];
  if (expert < 0) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int tile = static_cast<int>(blockIdx.y);
  const float* x = p.x + std::int64_t{slot / p.topk} * p.x_stride;
  float gate[2];
  float up[2];
  multiply_rows<F>(p.gate, expert, tile, x, lane, gate);
  multiply_rows<F>(p.up, expert, tile, x, lane, up);
  for (int r = 0; r < 2; ++r) {
    const int row = tile * kTileRows + lane / 4 + 8 * r;
    if (lane % 4 != 0 || row >= p.gate.n) continue;
    hidden[std::int64_t{slot} * p.gate.n + row] = gate[r] / (1.0F + expf(-gate[r])) * up[r];
  }
}

template <Format F>
__global__ void __launch_bounds__(kWarp)
    second_kernel(const __grid_constant__ MoeParams p, const float* hidden) {
  const int slot = static_cast<int>(blockIdx.x);
  const int expert = p.ids[slot];
  if (expert < 0) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int tile = static_cast<int>(blockIdx.y);
  float sums[2];
  multiply_rows<F>(p.down, expert, tile, hidden + std::int64_t{slot} * p.down.k, lane, sums);
  for (int r = 0; r < 2; ++r) {
    const int row = tile * kTileRows + lane / 4 + 8 * r;
    if (lane % 4 != 0 || row >= p.down.n) continue;
    p.partial[std::int64_t{slot} * p.down.n + row] = p.weights[slot] * sums[r];
  }
}

dim3 grid_of(const MoeParams& p, const PackedWeight& w) {
  return {static_cast<unsigned>(p.m * p.topk), static_cast<unsigned>(w.num_tiles)};
}

// Calls `launch` with the format as a template argument.
template <class Launch>
void with_format(Format format, const Launch& launch) {
  switch (format) {
    case Format::f32: launch.template operator()<Format::f32>(); return;
    case Format::f16: launch.template operator()<Format::f16>(); return;
    case Format::bf16: launch.template operator()<Format::bf16>(); return;
    case Format::fp8: launch.template operator()<Format::fp8>(); return;
    case Format::mxfp4: launch.template operator()<Format::mxfp4>(); return;
    case Format::nvfp4: launch.template operator()<Format::nvfp4>(); return;
    case Format::int8: launch.template operator()<Format::int8>(); return;
    case Format::int4: launch.template operator()<Format::int4>(); return;
  }
}

}  // namespace

void launch_reference_first(const MoeParams& p, float* hidden, cudaStream_t stream) {
  with_format(p.gate.format,
              [&]<Format F>() { first_kernel<F><<<grid_of(p, p.gate), kWarp, 0, stream>>>(p, hidden); });
}

void launch_reference_second(const MoeParams& p, const float* hidden, cudaStream_t stream) {
  with_format(p.down.format,
              [&]<Format F>() { second_kernel<F><<<grid_of(p, p.down), kWarp, 0, stream>>>(p, hidden); });
}

}  // namespace nibble::kernels::cuda::moe
