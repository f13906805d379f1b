// Sums of one unit of bf16 tokens and weights with wide scales, by one computing warpgroup
// (prefill_multiply.cuh). A part of a stage, columns inside which no row's scale changes, is a sum of its
// own, which is added up in float32 times the rows' scales.
#pragma once

#include "kernels/cuda/moe/prefill_multiply.cuh"

namespace nibble::kernels::cuda::moe {

// A chunk of 32 columns of weights with wide scales, as two k16 steps.
template <Format F, class B>
__device__ __forceinline__ void decode_chunk(const ComputeCursor<B>& w, int half, int block, int chunk,
                                             const RowOperands& zeros, std::uint32_t (&a)[2][4]) {
  LaneCodes<F> codes;
  codes.load_chunk(w.codes(half) + block * block_bytes(F), chunk, w.lane);
  decode_step(codes, 2 * chunk, zeros, a[0]);
  decode_step(codes, 2 * chunk + 1, zeros, a[1]);
}

template <int kCount>
__device__ __forceinline__ void add_scaled(const float (&part)[kCount], float2 scale, float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) acc[i] = fmaf(i / 2 % 2 == 0 ? scale.x : scale.y, part[i], acc[i]);
}

template <class B>
__device__ __forceinline__ bool has_zeros(const PrefillContext& c) {
  return B::kPartZeros != 0 && c.weights[0]->zeros_offset != 0;
}

// For stages that are all one part: of one half and then of the other, products always under way while the
// next chunk is decoded.
template <Format F, int G, int kN>
__device__ __forceinline__ void multiply_stages(const PrefillContext& c,
                                                ComputeCursor<BlockShape<F, Input::bf16, G>>& w, int atoms,
                                                float (&acc)[2][kN / 2]) {
  using B = BlockShape<F, Input::bf16, G>;
  std::uint32_t a[2][2][4];  // [chunk % 2][step]
  float part[kN / 2];
  RowOperands zeros = no_zeros<F>();
  const auto decode = [&](int half, int chunk) {
    if (chunk == 0 && has_zeros<B>(c)) zeros = w.template part_zeros<F>(half, 0);
    decode_chunk<F>(w, half, chunk / 2, chunk % 2, zeros, a[chunk % 2]);
  };
  w.wait_full();
  decode(0, 0);
  for (int step = 0; step < c.num_steps; ++step) {
    const int stage = w.at.stage;
    const std::uint32_t tokens = w.tokens();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int chunk = 0; chunk < B::kMaxParts; ++chunk) {
        const std::uint64_t rows =
            k_major(tokens + chunk / 2 * atoms * kAtomBytes) + chunk % 2 * 2 * kDescriptorStep;
        wgmma_fence();
        wgmma_bf16(part, a[chunk % 2][0], rows, chunk > 0 ? 1 : 0);
        wgmma_bf16(part, a[chunk % 2][1], rows + kDescriptorStep, 1);
        wgmma_commit();
        wgmma_wait<1>();  // the products of the chunk before read the registers that come next
        if (chunk + 1 < B::kMaxParts) {
          decode(half, chunk + 1);
        } else if (half == 0) {
          decode(1, 0);
        } else {
          w.at.advance();
          if (step + 1 < c.num_steps) {
            w.wait_full();
            decode(0, 0);
          }
        }
      }
      wgmma_wait<0>();
      settle(part);
      add_scaled(part, w.part_scales(half, stage, 0), acc[half]);
    }
    w.release(stage);
  }
}

// For stages of several parts, and where the last is half filled.
template <Format F, int G, int kN>
__device__ __forceinline__ void multiply_parts(const PrefillContext& c,
                                               ComputeCursor<BlockShape<F, Input::bf16, G>>& w, int atoms,
                                               float (&acc)[2][kN / 2]) {
  using B = BlockShape<F, Input::bf16, G>;
  const int shift = c.part_shift;
  const int of_part = (1 << shift) - 1;  // of a chunk's number: its place in its part
  std::uint32_t a[2][2][4];              // [chunk][step]
  float part[kN / 2] = {};               // else the first products, which do not always add, would read it
  const auto decode = [&](int half, int block, int chunk) {
    RowOperands zeros = no_zeros<F>();
    if (has_zeros<B>(c)) zeros = w.template part_zeros<F>(half, (2 * block + chunk) >> shift);
    decode_chunk<F>(w, half, block, chunk, zeros, a[chunk]);
  };
  w.wait_full();
  decode(0, 0, 0);
  for (int step = 0; step < c.num_steps; ++step) {
    const int blocks = min(B::kStageBlocks, c.num_blocks - step * B::kStageBlocks);
    const int stage = w.at.stage;
    const std::uint32_t tokens = w.tokens();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll 1
      for (int block = 0; block < blocks; ++block) {
        const std::uint64_t rows = k_major(tokens + block * atoms * kAtomBytes);
        const bool is_last = block + 1 == blocks;
#pragma unroll
        for (int chunk = 0; chunk < 2; ++chunk) {
          const int number = 2 * block + chunk;
          wgmma_fence();
          wgmma_bf16(part, a[chunk][0], rows + 2 * chunk * kDescriptorStep, number & of_part);
          wgmma_bf16(part, a[chunk][1], rows + (2 * chunk + 1) * kDescriptorStep, 1);
          wgmma_commit();
          if (chunk == 0) {
            decode(half, block, 1);
          } else if (half == 0 || !is_last) {
            decode(is_last ? 1 : half, is_last ? 0 : block + 1, 0);
          } else {
            w.at.advance();
            if (step + 1 < c.num_steps) {
              w.wait_full();
              decode(0, 0, 0);
            }
          }
          wgmma_wait<0>();
          const bool ends = ((number + 1) & of_part) == 0 || (is_last && chunk == 1);
          if (!ends) continue;
          settle(part);
          add_scaled(part, w.part_scales(half, stage, number >> shift), acc[half]);
        }
      }
    }
    w.release(stage);
  }
}

template <Format F, int G, int kN>
__device__ __forceinline__ void multiply_wide(const PrefillContext& c,
                                              ComputeCursor<BlockShape<F, Input::bf16, G>>& w, int atoms,
                                              float (&acc)[2][kN / 2]) {
  using B = BlockShape<F, Input::bf16, G>;
  if ((1 << c.part_shift) != B::kMaxParts || c.num_blocks % B::kStageBlocks != 0) {
    multiply_parts<F, G, kN>(c, w, atoms, acc);
  } else {
    multiply_stages<F, G, kN>(c, w, atoms, acc);
  }
}

}  // namespace nibble::kernels::cuda::moe
