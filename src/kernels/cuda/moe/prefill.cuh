// Grouped products for many tokens per expert, on wgmma: 128 weight rows per computing warpgroup (64 of gate
// and the same 64 of up, or 128 of down) times up to 128 tokens. Weights are decoded once per tile of tokens.
// One warp fills a ring of weights and tokens, which runs ahead across units.
#pragma once

#include "kernels/cuda/moe/prefill_multiply.cuh"
#include "kernels/cuda/moe/prefill_wide.cuh"
#include "kernels/cuda/moe/prefill_write.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda::moe {

template <Format F, Input I, bool kFirst, int G, int kN>
__device__ __forceinline__ void run_unit(const PrefillParams& params, const PrefillContext& c,
                                         const Tile& tile, int row_unit,
                                         ComputeCursor<BlockShape<F, I, G>>& w, const GroupScales& groups) {
  const int row_tiles[2] = {prefill_row_tile<kFirst, G>(row_unit, w.warp, 0),
                            prefill_row_tile<kFirst, G>(row_unit, w.warp, 1)};
  // Asked for before they are needed: memory is busy.
  float factors[2][2];
  prefill_factors(c, tile.expert, row_tiles, w.lane, factors);
  LaneSlots<kN> tokens;
  if constexpr (!kFirst) tokens.load(params.p.route, tile, w.lane);
  float acc[2][kN / 2] = {};
  if constexpr (I == Input::fp8) {
    multiply_fp8<F, G, kN>(c, w, acc);
  } else if constexpr (has_wide_scales(F)) {
    multiply_wide<F, G, kN>(c, w, padded_tokens(tile) / kAtomTokens, acc);
  } else {
    multiply_bf16<F, G, kN>(c, w, padded_tokens(tile) / kAtomTokens, acc);
  }
  if constexpr (kFirst) {
    gate_values<kN>(acc, factors);
    write_hidden<I, kN>(params, tile, row_tiles[0], w.warp, w.lane, groups, acc[0]);
  } else {
    write_partial<kN>(params.p, tokens, row_tiles[0], w.lane, groups.stage + w.warp * PieceWriter::kBytes,
                      acc, factors);
  }
}

// The computing warps: units with the narrowest product that holds their tokens.
template <Format F, Input I, bool kFirst, int G>
__device__ __forceinline__ void compute_units(const PrefillParams& params, const PrefillContext& c,
                                              ComputeCursor<BlockShape<F, I, G>>& w,
                                              const GroupScales& groups) {
  for (UnitCursor at(c); !at.done(); at.advance()) {
    const Tile tile = at.take();
    const int row_unit = at.row_unit();
    const int size = (tile.count + 15) / 16;
    if constexpr (G == 2) {
      switch (size) {
        case 1:
        case 2: run_unit<F, I, kFirst, G, 32>(params, c, tile, row_unit, w, groups); break;
        case 3: run_unit<F, I, kFirst, G, 48>(params, c, tile, row_unit, w, groups); break;
        case 4: run_unit<F, I, kFirst, G, 64>(params, c, tile, row_unit, w, groups); break;
        case 5:
        case 6: run_unit<F, I, kFirst, G, 96>(params, c, tile, row_unit, w, groups); break;
        case 7: run_unit<F, I, kFirst, G, 112>(params, c, tile, row_unit, w, groups); break;
        default:
          if constexpr (BlockShape<F, I, G>::kTileTokens == kPrefillTileTokens)
            run_unit<F, I, kFirst, G, 128>(params, c, tile, row_unit, w, groups);
          break;
      }
    } else if (size == 1) {
      run_unit<F, I, kFirst, G, 16>(params, c, tile, row_unit, w, groups);
    } else {
      run_unit<F, I, kFirst, G, 32>(params, c, tile, row_unit, w, groups);
    }
  }
}

template <class B>
__device__ void prepare_shared(std::byte* shared, bool clear_scales) {
  for (int i = static_cast<int>(threadIdx.x); clear_scales && i < B::kDepth * B::kStageScales / 4;
       i += B::kThreads) {
    reinterpret_cast<unsigned*>(shared + B::kScales)[i] = 0;
  }
  if (threadIdx.x == 0) {
    const std::uint32_t address = shared_address(shared);
    for (int i = 0; i < B::kDepth; ++i) {
      mbarrier_init(full_barrier<B>(address, i), kFillWarps * kWarp + 1);
      mbarrier_init(empty_barrier<B>(address, i), B::kWarps);
    }
    mbarrier_init_fence();
  }
  fence_async_proxy();
  __syncthreads();
}

template <Format F, Input I, bool kFirst, int G>
__global__ void __launch_bounds__(BlockShape<F, I, G>::kThreads, 1)
    prefill_kernel(const __grid_constant__ PrefillParams params) {
  using B = BlockShape<F, I, G>;
  extern __shared__ __align__(1024) std::byte shared[];
  const MoeParams& p = params.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  PrefillContext c{};
  c.tiles = p.route.tiles;
  c.weights[0] = kFirst ? &p.gate : &p.down;
  c.weights[1] = kFirst ? &p.up : &p.down;
  c.tokens = kFirst ? params.x : params.h;
  c.token_scales = kFirst ? params.x_scales : params.h_scales;
  c.num_blocks = c.weights[0]->num_blocks;
  c.num_steps = (c.num_blocks + B::kStageBlocks - 1) / B::kStageBlocks;
  if constexpr (B::kWide) c.part_shift = part_shift(*c.weights[0], B::kStageBlocks == 1 ? 1 : 2);
  c.panels = num_panels<I>(*c.weights[0]);
  constexpr int kUnitRows = kFirst ? B::kWarps : B::kUnitTiles;
  // Units cover whole groups of hidden values, with padding.
  c.row_units = (c.weights[0]->num_tiles + kUnitRows - 1) / kUnitRows;
  // The last stage of E4M3 products may be half filled: what is decoded instead must be finite.
  prepare_shared<B>(shared, I == Input::fp8 && F == Format::mxfp4 && c.num_blocks % B::kStageBlocks != 0);
  wait_for_earlier_kernels();
  let_next_kernel_start();
  c.num_units = *p.route.num_tiles * c.row_units;
  if (warp >= B::kWarps) {
    lower_registers<B::kFillRegisters>();
    fill_ring<F, I, kFirst, G>(c, shared_address(shared), warp - B::kWarps, lane);
  } else {
    raise_registers<B::kComputeRegisters>();
    ComputeCursor<B> w{
        .shared = shared_address(shared), .memory = shared, .warp = warp, .lane = lane, .at = {}};
    const GroupScales groups{.maxima = reinterpret_cast<unsigned*>(shared + B::kMaximaAt),
                             .scales = reinterpret_cast<float2*>(shared + B::kGroupScalesAt),
                             .stage = shared + B::kMaximaAt};
    compute_units<F, I, kFirst, G>(params, c, w, groups);
  }
}

template <Format F, Input I, bool kFirst, int G>
void launch_shape(const PrefillParams& params, int num_sms, cudaStream_t stream) {
  using B = BlockShape<F, I, G>;
  auto* kernel = prefill_kernel<F, I, kFirst, G>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, B::kBytes);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(num_sms)), B::kThreads, B::kBytes, stream, params);
}

template <Format F, Input I, int G>
constexpr PrefillProducts prefill_products() {
  return {.first = launch_shape<F, I, true, G>, .second = launch_shape<F, I, false, G>};
}

}  // namespace nibble::kernels::cuda::moe
