// A block multiplies one row tile (16 experts) and one slice of k by up to eight tokens. At one token the
// kernel is all latency: every warp has asked for its first weights before it waits for the norm in front.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/moe/gate_product.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxTokens = 8;  // of a block

// The lane's two rows (g and g + 8) of one k64 block times its inputs of each token.
template <Format kFormat, int kTokens>
__device__ __forceinline__ void add_block(const LaneCodes<kFormat>& codes, const float* const (&x)[kTokens],
                                          int column, int k, float (&sums)[2][kTokens]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    float weights[8];
    decode_floats(codes, step, RowOperands{}, weights);
    const int at = column + step * 16;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      float2 low{};
      float2 high{};
      if (at + 1 < k) low = *reinterpret_cast<const float2*>(x[token] + at);
      if (at + 9 < k) high = *reinterpret_cast<const float2*>(x[token] + at + 8);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float sum = sums[row][token];
        sum = fmaf(weights[2 * row], low.x, sum);
        sum = fmaf(weights[2 * row + 1], low.y, sum);
        sum = fmaf(weights[2 * row + 4], high.x, sum);
        sums[row][token] = fmaf(weights[2 * row + 5], high.y, sum);
      }
    }
  }
}

// grid: row tiles, slices, token tiles.
template <Format kFormat, int kTokens>
__global__ void __launch_bounds__(kWarps * 32) gate_product_kernel(const __grid_constant__ GateProduct p) {
  __shared__ float partial[kWarps][kTokens][kTileRows];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int tile = static_cast<int>(blockIdx.x);
  const int slice = static_cast<int>(blockIdx.y);
  const int token0 = static_cast<int>(blockIdx.z) * kTokens;
  const std::byte* weights = tile_address(p.gate, 0, tile).codes;
  const int step = kWarps * p.num_slices;
  const auto load = [&](LaneCodes<kFormat>& codes, int block) {
    if (block < p.gate.num_blocks) codes.load(weights + std::int64_t{block} * block_bytes(kFormat), lane);
  };

  let_next_kernel_start();
  const int first = slice * kWarps + warp;
  LaneCodes<kFormat> codes{};
  LaneCodes<kFormat> next{};
  load(codes, first);
  load(next, first + step);
  wait_for_earlier_kernels();

  const float* x[kTokens];
#pragma unroll
  for (int token = 0; token < kTokens; ++token) x[token] = p.x + min(token0 + token, p.m - 1) * p.x_stride;
  float sums[2][kTokens] = {};
  for (int block = first; block < p.gate.num_blocks; block += step) {
    add_block<kFormat, kTokens>(codes, x, block * kBlockK + lane % 4 * 2, p.gate.k, sums);
    codes = next;
    load(next, block + 2 * step);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      float sum = sums[row][token];
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
      if (lane % 4 == 0) partial[warp][token][row * 8 + lane / 4] = sum;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kTileRows; i += kWarps * 32) {
    const int token = token0 + i / kTileRows;
    const int expert = tile * kTileRows + i % kTileRows;
    if (token >= p.m || expert >= p.gate.n) continue;
    float sum = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][i / kTileRows][i % kTileRows];
    p.partials[(std::int64_t{slice} * p.m + token) * p.gate.n + expert] = sum;
  }
}

template <Format kFormat>
void launch_format(const GateProduct& p, cudaStream_t stream) {
  const auto tokens = [&](int per_block) { return static_cast<unsigned>((p.m + per_block - 1) / per_block); };
  const auto grid = [&](int per_block) {
    return dim3(static_cast<unsigned>(p.gate.num_tiles), static_cast<unsigned>(p.num_slices),
                tokens(per_block));
  };
  if (p.m == 1) {
    launch_overlapped(gate_product_kernel<kFormat, 1>, grid(1), kWarps * 32, 0, stream, p);
  } else {
    launch_overlapped(gate_product_kernel<kFormat, kMaxTokens>, grid(kMaxTokens), kWarps * 32, 0, stream, p);
  }
}

}  // namespace

bool gate_product_supports(const PackedWeight& gate, const float* x, std::int64_t x_stride, std::int64_t m) {
  return (gate.format == Format::bf16 || gate.format == Format::f32) && gate.permutation_offset == 0 &&
         gate.k % 2 == 0 && reinterpret_cast<std::uintptr_t>(x) % 8 == 0 && x_stride % 2 == 0 &&
         m <= kMaxSlicedTokens;
}

int gate_product_slices(const PackedWeight& gate, int m, int num_sms) {
  const int blocks = gate.num_tiles * ((m + kMaxTokens - 1) / kMaxTokens);
  const int useful = (gate.num_blocks + kWarps - 1) / kWarps;
  return std::clamp(std::min(num_sms / std::max(blocks, 1), useful), 1, kMaxGateSlices);
}

void launch_gate_product(const GateProduct& product, cudaStream_t stream) {
  if (product.gate.format == Format::bf16) {
    launch_format<Format::bf16>(product, stream);
  } else {
    launch_format<Format::f32>(product, stream);
  }
}

}  // namespace nibble::kernels::cuda
