// Sums of one unit, by one computing warpgroup: acc[half] = 64 weight rows times kN tokens. Weights are the A
// operand of wgmma: every warp decodes its row tiles from the ring into registers, while earlier products
// run.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/moe/prefill_ring.cuh"

namespace nibble::kernels::cuda::moe {

// Where a computing warp is.
template <class B>
struct ComputeCursor {
  std::uint32_t shared;
  std::byte* memory;  // the same as a pointer
  int warp;
  int lane;
  RingPosition<B::kDepth> at;

  __device__ __forceinline__ void wait_full() const {
    mbarrier_wait(full_barrier<B>(shared, at.stage), at.parity);
  }
  // All lanes are done with the stage.
  __device__ __forceinline__ void release(int stage) const {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty_barrier<B>(shared, stage));
  }
  __device__ __forceinline__ std::uint32_t tokens() const { return shared + at.stage * B::kStageTokens; }
  __device__ __forceinline__ const std::byte* codes(int half) const {
    return memory + B::kCodes + at.stage * B::kStageCodes + (half * B::kWarps + warp) * B::kSlotCodes;
  }
  __device__ __forceinline__ const std::byte* scales(int half) const { return scales_of(half, at.stage); }
  __device__ __forceinline__ const std::byte* scales_of(int half, int stage) const {
    return memory + B::kScales + stage * B::kStageScales + (half * B::kWarps + warp) * B::kSlotScales;
  }
  // Wide scales of rows g and g + 8, and what decode_step subtracts there.
  __device__ __forceinline__ float2 part_scales(int half, int stage, int part) const {
    const std::byte* of_part = scales_of(half, stage) + part * B::kPartScales;
    const auto* rows = reinterpret_cast<const float*>(of_part) + lane / 4;
    return make_float2(rows[0], rows[8]);
  }
  template <Format F>
  __device__ __forceinline__ RowOperands part_zeros(int half, int part) const {
    const std::byte* of_part = scales(half) + B::kMaxParts * B::kPartScales + part * B::kPartZeros;
    const auto* rows = reinterpret_cast<const std::int8_t*>(of_part) + lane / 4;
    return {.low = zero_operand<F>(rows[0]), .high = zero_operand<F>(rows[8])};
  }
};

inline constexpr std::uint64_t kDescriptorStep = 32 / 16;  // 32 bytes further along k

// Keeps the compiler from reading sums before the wait that makes them final.
template <int kCount>
__device__ __forceinline__ void settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// bf16 tokens, weights without wide scales, k32 by k32 of both halves: while the products of one run the next
// is decoded.
template <Format F, int G, int kN>
__device__ __forceinline__ void multiply_bf16(const PrefillContext& c,
                                              ComputeCursor<BlockShape<F, Input::bf16, G>>& w, int atoms,
                                              float (&acc)[2][kN / 2]) {
  constexpr int kStageBlocks = BlockShape<F, Input::bf16, G>::kStageBlocks;
  constexpr int kSteps = 2;          // k16 steps of a chunk
  std::uint32_t a[2][2][kSteps][4];  // [chunk][half][step]
  LaneCodes<F> codes[2];
  LaneScales<has_narrow_scales(F) ? F : Format::mxfp4> scales[2];
  const auto load = [&](int block) {
    if constexpr (has_narrow_scales(F)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        codes[half].load(w.codes(half) + block * block_bytes(F), w.lane);
        scales[half].load(w.scales(half) + block * scale_block_bytes(F), w.lane);
      }
    }
  };
  const auto decode = [&](int chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Codes that are operands as they are go where the last products have read.
      if constexpr (!has_narrow_scales(F)) codes[half].load_chunk(w.codes(half), chunk, w.lane);
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int step = chunk * kSteps + s;
        RowOperands operands{};
        if constexpr (has_narrow_scales(F)) operands = scales[half].operands(step);
        decode_step(codes[half], step, operands, a[chunk][half][s]);
      }
    }
  };
  const auto multiply = [&](int chunk, std::uint64_t rows) {
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        wgmma_bf16(acc[half], a[chunk][half][s], rows + (chunk * kSteps + s) * kDescriptorStep);
      }
    }
    wgmma_commit();
  };
  w.wait_full();
  load(0);
  decode(0);
  for (int block = 0; block < c.num_blocks; ++block) {
    const int in_stage = block % kStageBlocks;
    const std::uint64_t rows = k_major(w.tokens() + in_stage * atoms * kAtomBytes);
    multiply(0, rows);
    decode(1);
    wgmma_wait<0>();
    multiply(1, rows);
    const int stage = w.at.stage;
    const bool leaves = in_stage == kStageBlocks - 1 || block + 1 == c.num_blocks;
    if (leaves) w.at.advance();
    if (block + 1 < c.num_blocks) {
      if (leaves) w.wait_full();
      load(leaves ? 0 : in_stage + 1);
      decode(0);
    }
    wgmma_wait<0>();
    if (leaves) w.release(stage);
  }
  settle(acc[0]);
  settle(acc[1]);
}

// Four fragments of e2m1 codes times 2^-14, as f16.
__device__ __forceinline__ void decode_e2m1_f16(std::uint32_t word, std::uint32_t (&a)[4]) {
  constexpr std::uint32_t kSign = 0x80008000U;
  constexpr std::uint32_t kMagnitude = 0x0E000E00U;
  const std::uint32_t by3 = word << 3;
  const std::uint32_t by6 = word << 6;
  const std::uint32_t by9 = word << 9;
  a[0] = (word & kSign) | (by3 & kMagnitude);
  a[1] = (by3 & kSign) | (by6 & kMagnitude);
  a[2] = (by6 & kSign) | (by9 & kMagnitude);
  a[3] = ((word << 1) & kSign) | (word & 0x0C000C00U) | ((word >> 4) & 0x02000200U);
}

__device__ __forceinline__ std::uint32_t multiply_halves(std::uint32_t a, std::uint32_t b) {
  const __half2 product =
      __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}

// A k64 block's scales {row g: 2, row g + 8: 2} as f16 powers of two: those 30 binades and more below the
// largest of the row become 0.
struct HalfScales {
  std::uint32_t words;  // bytes: high bytes of the f16s

  __device__ __forceinline__ explicit HalfScales(std::uint32_t bytes) {
    constexpr std::uint32_t kTop = 0xE0E0E0E0U;  // fields from 224 on
    std::uint32_t fields = bytes & ~kTop;
    if ((bytes & kTop) != kTop) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((bytes >> (8 * i) & 0xE0U) != 0xE0U) fields &= ~(0xFFU << (8 * i));
      }
    }
    words = fields << 2;
  }
  // Of the block's 32 columns `chunk`, twice.
  [[nodiscard]] __device__ __forceinline__ RowOperands operands(int chunk) const {
    const auto spread = [&](int i) {
      return __byte_perm(words, 0U, static_cast<unsigned>(0x0404 | i << 4 | i << 12));
    };
    return {.low = spread(chunk), .high = spread(2 + chunk)};
  }
};

// A k64 block as two fragments of k32, E5M2: the upper bytes of f16 products, which hold all of their bits.
__device__ __forceinline__ void decode_block_e5m2(const std::byte* block_codes, const std::byte* block_scales,
                                                  int lane, std::uint32_t (&a)[2][4]) {
  LaneCodes<Format::mxfp4> codes;
  codes.load(block_codes, lane);
  const HalfScales scales(reinterpret_cast<const std::uint32_t*>(block_scales)[lane / 4]);
  const std::uint32_t words[4] = {codes.vectors[0].x, codes.vectors[0].y, codes.vectors[0].z,
                                  codes.vectors[0].w};
#pragma unroll
  for (int chunk = 0; chunk < 2; ++chunk) {
    const RowOperands scale = scales.operands(chunk);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t f[4];
      decode_e2m1_f16(words[2 * chunk + i], f);
#pragma unroll
      for (int j = 0; j < 4; ++j) f[j] = multiply_halves(f[j], j % 2 == 0 ? scale.low : scale.high);
      a[chunk][2 * i] = __byte_perm(f[0], f[2], 0x7531);
      a[chunk][2 * i + 1] = __byte_perm(f[1], f[3], 0x7531);
    }
  }
}

// A k64 block of E4M3 as two fragments of k32.
__device__ __forceinline__ void load_block_e4m3(const std::byte* block_codes, int lane,
                                                std::uint32_t (&a)[2][4]) {
  LaneCodes<Format::fp8> codes;
  codes.load(block_codes, lane);
#pragma unroll
  for (int chunk = 0; chunk < 2; ++chunk) {
    const uint4 v = codes.vectors[chunk];
    a[chunk][0] = __byte_perm(v.x, v.y, 0x7531);
    a[chunk][1] = __byte_perm(v.x, v.y, 0x6420);
    a[chunk][2] = __byte_perm(v.z, v.w, 0x7531);
    a[chunk][3] = __byte_perm(v.z, v.w, 0x6420);
  }
}

// E4M3 tokens; MXFP4 weights, or E4M3 ones whose scales hold for whole stages. The products of 128 columns go
// into sums of their own, which are added up in float32 times the scales of tokens and E4M3 rows. While those
// of one half run the other half is decoded.
template <Format F, int G, int kN>
__device__ __forceinline__ void multiply_fp8(const PrefillContext& c,
                                             ComputeCursor<BlockShape<F, Input::fp8, G>>& w,
                                             float (&acc)[2][kN / 2]) {
  using B = BlockShape<F, Input::fp8, G>;
  std::uint32_t a[2][4][4];  // [half][k32 step]
  float part[kN / 2];
  const auto decode = [&](int half, int blocks) {
#pragma unroll
    for (int block = 0; block < B::kStageBlocks; ++block) {
      std::uint32_t fragments[2][4] = {};
      if constexpr (F == Format::fp8) {
        // Of a block that is not there the codes may be NaN.
        if (block < blocks) load_block_e4m3(w.codes(half) + block * block_bytes(F), w.lane, fragments);
      } else {
        decode_block_e5m2(w.codes(half) + block * block_bytes(F),
                          w.scales(half) + block * scale_block_bytes(F), w.lane, fragments);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) a[half][2 * block + i / 4][i % 4] = fragments[i / 4][i % 4];
    }
  };
  const auto multiply = [&](int half) {
    const std::uint64_t rows = k_major(w.tokens());
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const std::uint64_t columns = rows + s * kDescriptorStep;
      if constexpr (F == Format::fp8) {
        wgmma_e4m3(part, a[half][s], columns, s > 0 ? 1 : 0);
      } else {
        wgmma_e5m2_e4m3(part, a[half][s], columns, s > 0 ? 1 : 0);
      }
    }
    wgmma_commit();
  };
  const auto add_up = [&](int half, int stage) {
    wgmma_wait<0>();
    settle(part);
    const auto* scales =
        reinterpret_cast<const float2*>(w.memory + B::kTokenScales + stage * B::kStageTokenScales) +
        w.lane % 4;
    float2 of_rows = make_float2(1.0F, 1.0F);
    if constexpr (F == Format::fp8) of_rows = w.part_scales(half, stage, 0);
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const float2 scale = scales[4 * j];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float row = r == 0 ? of_rows.x : of_rows.y;
        acc[half][4 * j + 2 * r] += part[4 * j + 2 * r] * row * scale.x;
        acc[half][4 * j + 2 * r + 1] += part[4 * j + 2 * r + 1] * row * scale.y;
      }
    }
  };
  const auto blocks_of = [&](int step) { return c.num_blocks - step * B::kStageBlocks; };
  w.wait_full();
  decode(0, blocks_of(0));
  for (int step = 0; step < c.num_steps; ++step) {
    multiply(0);
    decode(1, blocks_of(step));
    add_up(0, w.at.stage);
    multiply(1);
    const int stage = w.at.stage;
    w.at.advance();
    if (step + 1 < c.num_steps) {
      w.wait_full();
      decode(0, blocks_of(step + 1));
    }
    add_up(1, stage);
    w.release(stage);
  }
}

}  // namespace nibble::kernels::cuda::moe
