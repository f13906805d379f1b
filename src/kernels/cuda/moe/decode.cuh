// Grouped products for few tokens per expert: an expert's rows times up to 8 of its tokens.
//
// The weights are the M side of mma.m16n8k16 and the tokens its N side. A block owns a range of the units
// (decode_units.cuh) of the first product and one of the second. One warp streams the units' weights
// through a ring with the copy engine (decode_fill.cuh); compute warps multiply (decode_compute.cuh), one
// more warp finishes (decode_finish.cuh). A value depends on its own token and expert alone.
//
// Both products are one launch where nothing comes between them: every SM has one block, and all wait for
// each other when their hidden values are written, with the ring full of the second product's weights.
// Weights of shared experts do not depend on routing: a block begins with its share of these, and asks for
// them before the choice of the others is there.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/grid_barrier.cuh"
#include "kernels/cuda/moe/decode_finish.cuh"
#include "kernels/cuda/overlap.h"
#include "kernels/cuda/shared_memory.h"

namespace nibble::kernels::cuda::moe {

__device__ inline void init_barriers(std::uint32_t bars, int warps) {
  for (int i = 0; i < kMaxDepth; ++i) {
    mbarrier_init(bars + 8 * (Bars::kFull + i), 1);
    mbarrier_init(bars + 8 * (Bars::kEmpty + i), warps);
  }
  for (int i = 0; i < 2; ++i) {
    mbarrier_init(bars + 8 * (Bars::kSumsFull + i), warps);
    mbarrier_init(bars + 8 * (Bars::kSumsEmpty + i), 1);
  }
  mbarrier_init(bars + 8 * Bars::kHidden, 1);
  mbarrier_init(bars + 8 * Bars::kWritten, 1);
  mbarrier_init_fence();
}

// The tiles, sorted here or before.
struct Tiles {
  const Tile* tiles;
  const std::int32_t* sorted;
  int count;
};
__device__ __forceinline__ Tiles find_tiles(const MoeParams& p, const DecodeSmem& s, std::byte* shared) {
  if (p.route.tiles != nullptr) return {p.route.tiles, p.route.sorted, *p.route.num_tiles};
  auto& route = *reinterpret_cast<BlockRoute*>(shared);
  sort_in_block(route, reinterpret_cast<std::int32_t*>(shared + s.ring), p, s.tile_tokens);
  return {route.tiles, route.sorted, route.num_tiles};
}

template <bool kFirstProduct>
__device__ __forceinline__ DecodeContext make_context(const MoeParams& p, const Tiles& tiles) {
  return {.tiles = tiles.tiles,
          .sorted = tiles.sorted,
          .num_blocks = routed_weight<kFirstProduct>(p, 0).num_blocks,
          .units = block_units(p.shared.count, tiles.count, pairs_of<kFirstProduct>(p))};
}

// The compute warps, two that finish and the one that fills.
template <Format F>
inline constexpr int kDecodeThreads = (Stage<F>::kWarps + 3) * kWarp;

// Threads that registers are shared out to: more than there are, so that each quarter of the SM keeps room
// for two warps of a small kernel, which then waits there instead of beginning when this one has left. INT4
// gains more from its registers.
template <Format F>
inline constexpr int kRegisterThreads = Stage<F>::kWarps == 16 ? 768
                                        : F == Format::int4    ? 448
                                                               : 512;

// products: kFirst, kSecond or both.
template <Format F>
__global__ void __launch_bounds__(kRegisterThreads<F>, 1)
    decode_kernel(const __grid_constant__ MoeParams p, const __grid_constant__ DecodeSmem s,
                  unsigned products, bool x_pairs) {
  constexpr int kWarps = Stage<F>::kWarps;
  extern __shared__ __align__(128) std::byte shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const bool has_first = (products & kFirst) != 0;
  const bool has_second = (products & kSecond) != 0;
  const std::uint32_t bars = shared_address(shared + s.bars);
  const Ring ring{shared + s.ring, bars, s.depth};
  RingWriter writer{.ring = ring};
  const BlockUnits shared_part = shared_units(p.shared.count, pairs_of<true>(p));
  Filler<F, true> first_filler(p, writer, shared_part, lane);
  const bool fills = warp == kWarps + 2;
  if (fills) {
    if (lane == 0) init_barriers(bars, kWarps);
    __syncwarp();
    if (has_first) first_filler.fill_ahead(shared_part);
  }
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const Tiles tiles = find_tiles(p, s, shared);
  fence_async_proxy();  // sorting used the ring's memory
  __syncthreads();
  const std::uint32_t hidden_there = bars + 8 * Bars::kHidden;
  const std::uint32_t written = bars + 8 * Bars::kWritten;

  if (fills) {
    if (has_first) first_filler.fill_rest(make_context<true>(p, tiles));
    if (has_second) {
      const BlockUnits shared_down = shared_units(p.shared.count, pairs_of<false>(p));
      Filler<F, false>(p, writer, shared_down, lane).fill_rest(make_context<false>(p, tiles));
    }
    return;
  }
  const SumBuffers sums{reinterpret_cast<float4*>(shared + s.sums), bars, kWarps};
  int pass = 0;
  if (warp >= kWarps) {
    const int which = warp - kWarps;
    if (has_first) finish<true>(p, make_context<true>(p, tiles), sums, which, lane, pass);
    if (has_first && has_second) {
      __syncwarp();
      if (lane == 0 && which == 1) mbarrier_arrive(written);
      if (lane == 0 && which == 0) {
        mbarrier_wait(written, 0);
        grid_barrier(p.barrier);
        mbarrier_arrive(hidden_there);
      }
      __syncwarp();
    }
    if (has_second) finish<false>(p, make_context<false>(p, tiles), sums, which, lane, pass);
    return;
  }
  RingCursor from;
  const auto multiply = [&](auto is_first, const TokenArea& area) {
    constexpr bool kFirstProduct = decltype(is_first)::value;
    const DecodeContext c = make_context<kFirstProduct>(p, tiles);
    ComputeWarp<F, kFirstProduct>{.p = p,
                                  .area = area,
                                  .c = c,
                                  .ring = ring,
                                  .sums = sums,
                                  .warp = warp,
                                  .lane = lane,
                                  .tokens = shared + s.tokens + warp * area.warp_tokens,
                                  .from = from,
                                  .pass = pass}
        .run(x_pairs);
  };
  if (has_first) multiply(std::true_type{}, s.first);
  if (has_first && has_second) mbarrier_wait(hidden_there, 0);
  if (has_second) multiply(std::false_type{}, s.second);
}

template <Format F>
void launch_decode_products(const MoeParams& p, const DecodeOptions& options, unsigned products,
                            cudaStream_t stream) {
  const DecodeSmem smem = plan_smem<F>(p, products, options.tile_tokens);
  const bool x_pairs =
      reinterpret_cast<std::uintptr_t>(p.x) % 8 == 0 && p.x_stride % 2 == 0 && p.gate.k % 2 == 0;
  auto* kernel = decode_kernel<F>;
  allow_all_shared_memory(kernel);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(options.num_sms)),
                    Together{.resident = products == (kFirst | kSecond)}, kDecodeThreads<F>, smem.bytes,
                    stream, p, smem, products, x_pairs);
}

template <Format F>
constexpr DecodeProducts decode_products() {
  return {.tile_tokens = [](const MoeParams& p, unsigned products,
                            int wanted) { return plan_smem<F>(p, products, wanted).tile_tokens; },
          .launch = launch_decode_products<F>};
}

}  // namespace nibble::kernels::cuda::moe
