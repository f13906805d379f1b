// Products for more tokens than decode.cu takes, with wgmma.
//
// Weights are decoded into the register operand A of wgmma, 64 rows of a warpgroup at a time, and used for
// all tokens of the tile, the shared-memory operand B. A first kernel rounds the activations to bf16 and lays
// them out as B is read (64 k of a token are 128 bytes, swizzled), so that a stage of the pipeline takes one
// bulk copy for its activations and one or two for each row tile's codes and scales. Four warps copy (one
// alone takes longer than the products), two or four warpgroups multiply; blocks stay and walk over the
// tiles.
//
// e2m1 formats carry their scales in the operand (exact). Codes with float32 scales are summed per scale
// group and then added, scaled. Where tiles are fewer than SMs, a cluster of blocks splits k and adds up
// through distributed shared memory, in a fixed order.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/inputs.h"
#include "kernels/cuda/linear/prefill.h"
#include "kernels/cuda/linear/prefill_multiply.cuh"
#include "kernels/cuda/linear/prefill_tile.cuh"
#include "kernels/cuda/linear/tiles.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kMaxTokenTile = 128;
constexpr int kOutBarrier = 2;  // and the next ones, of the warpgroups

// Copies of one stage: `count` blocks from `block` on.
template <Format kFormat, class C>
struct StageCopy {
  const PrefillArgs& args;
  TileOfGrid tile;
  int block;
  int count;

  __device__ __forceinline__ int first_group() const { return scale_group(args.w[0], block * 2); }
  __device__ __forceinline__ int groups() const {
    return scale_group(args.w[0], (block + count) * 2 - 1) - first_group() + 1;
  }
  __device__ __forceinline__ bool zeros() const {
    return C::kTileZeroBytes != 0 && args.w[0].zeros_offset != 0;
  }

  // All bytes the stage will get.
  __device__ __forceinline__ std::uint32_t bytes() const {
    int of_tile = count * (block_bytes(kFormat) + scale_block_bytes(kFormat));
    if constexpr (C::kWide) of_tile += groups() * kTileRows * (zeros() ? 5 : 4);
    return static_cast<std::uint32_t>(count * C::kTokens * kInputRowBytes + C::kRowTiles * of_tile);
  }

  // Row tile `i`.
  __device__ __forceinline__ void weights(std::byte* stage, std::uint32_t barrier, int i) const {
    const LocalTile<C> local = local_tile<C>(args, tile.row_tile, i);
    const PackedWeight& w = args.w[local.matrix];
    const TileAddress address = tile_address(w, 0, local.tile);
    bulk_copy(shared_address(stage_codes<C>(stage, i)),
              address.codes + static_cast<std::int64_t>(block) * block_bytes(kFormat),
              static_cast<std::uint32_t>(count * block_bytes(kFormat)), barrier);
    if constexpr (has_narrow_scales(kFormat)) {
      bulk_copy(shared_address(stage_scales<C>(stage, i)),
                address.scales + static_cast<std::int64_t>(block) * scale_block_bytes(kFormat),
                static_cast<std::uint32_t>(count * scale_block_bytes(kFormat)), barrier);
    } else if constexpr (C::kWide) {
      bulk_copy(shared_address(stage_scales<C>(stage, i)), address.scales + first_group() * kTileRows * 4,
                static_cast<std::uint32_t>(groups() * kTileRows * 4), barrier);
      if (zeros()) {
        bulk_copy(shared_address(stage_zeros<C>(stage, i)),
                  address.scales + w.zeros_offset + first_group() * kTileRows,
                  static_cast<std::uint32_t>(groups() * kTileRows), barrier);
      }
    }
  }

  __device__ __forceinline__ void inputs(std::byte* stage, std::uint32_t barrier, int lane) const {
    if (lane >= count) return;
    const std::int64_t row = static_cast<std::int64_t>(block + lane) * args.m_pad +
                             static_cast<std::int64_t>(tile.token_tile) * C::kTokens;
    bulk_copy(shared_address(stage + lane * C::kTokens * kInputRowBytes), args.inputs + row * kInputRowBytes,
              C::kTokens * kInputRowBytes, barrier);
  }
};

template <Format kFormat, class C>
__device__ __forceinline__ void copy_tiles(const PrefillArgs& args, const Ring& ring, const Part& part) {
  // Each of the four warps brings a quarter of the row tiles, a lane each.
  constexpr int kTilesOfWarp = C::kRowTiles / 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const auto copy_weights = [&](const StageCopy<kFormat, C>& copy, std::byte* stage, std::uint32_t barrier) {
    // Bytes may arrive before they are expected: the phase ends only after the arrival that expects them.
    if (warp == 0 && lane == 0) mbarrier_expect(barrier, copy.bytes());
    if (lane < kTilesOfWarp) copy.weights(stage, barrier, warp * kTilesOfWarp + lane);
  };
  const Blocks blocks = blocks_of_rank(args, part.rank);
  const int num_tiles = args.row_tiles * args.token_tiles;
  // Weights of the first stages do not depend on earlier kernels; their activations do.
  int ahead = 0;
  const TileOfGrid first_tile = tile_of_grid(args, part.first);
  for (int block = blocks.begin; block < blocks.end && ahead < C::kStages; block += C::kBlocks, ++ahead) {
    const StageCopy<kFormat, C> copy{args, first_tile, block, min(C::kBlocks, blocks.end - block)};
    copy_weights(copy, ring.stages + ahead * C::kStageBytes, barrier_at(ring.filled, ahead));
  }
  wait_for_earlier_kernels();
  RingState state;
  int position = 0;
  for (int index = part.first; index < num_tiles; index += part.step) {
    const TileOfGrid tile = tile_of_grid(args, index);
    for (int block = blocks.begin; block < blocks.end; block += C::kBlocks, ++position) {
      const StageCopy<kFormat, C> copy{args, tile, block, min(C::kBlocks, blocks.end - block)};
      std::byte* stage = ring.stages + state.stage * C::kStageBytes;
      std::uint32_t barrier = barrier_at(ring.filled, state.stage);
      if (position >= ahead) {
        if (position >= C::kStages) mbarrier_wait(barrier_at(ring.drained, state.stage), state.parity ^ 1U);
        copy_weights(copy, stage, barrier);
      }
      if (warp == 0) copy.inputs(stage, barrier, lane);
      state.advance(C::kStages);
    }
  }
}

// Through shared memory, so that whole lines leave: a warp has 32 bytes of a token.
template <class C>
__device__ __forceinline__ void store_tile(const PrefillArgs& args, const TileOfGrid& tile,
                                           const Sums<C>& sums, std::byte* memory) {
  static_assert(C::kOutputRows == C::kGroups * 64);
  constexpr int kSums = C::kOutTokens / 2;  // of a round
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int group = warp / 4;
  const RowTile of = row_tile_of<C>(args, tile.row_tile);
  const int group_row = of.index * C::kOutputRows + group * 64;
  const int local_row = warp % 4 * 16 + lane / 4;
  const Results results = results_of(args, of.second);
  auto* const out = reinterpret_cast<float*>(memory + C::kRingBytes) + group * C::kOutFloats;
  float factors[2][2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    factors[0][j] = factor_of(args, of.second, group_row + local_row + 8 * j);
    if constexpr (C::kGated) factors[1][j] = factor_of(args, true, group_row + local_row + 8 * j);
  }
#pragma unroll
  for (int round = 0; round < C::kTokens / C::kOutTokens; ++round) {
    barrier_sync(kOutBarrier + group, 128);  // the last round has left
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      const int j = s / 2 % 2;
      float value = factors[0][j] * sums[0][round * kSums + s];
      if constexpr (C::kGated) value = silu_mul(value, factors[1][j] * sums[1][round * kSums + s]);
      out[(s / 4 * 8 + lane % 4 * 2 + s % 2) * C::kOutStride + local_row + 8 * j] = value;
    }
    barrier_sync(kOutBarrier + group, 128);
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x) % 128; i < C::kOutTokens * 16; i += 128) {
      const float4 values = *reinterpret_cast<const float4*>(out + i / 16 * C::kOutStride + i % 16 * 4);
      store_quad(results, tile.token_tile * C::kTokens + round * C::kOutTokens + i / 16,
                 group_row + i % 16 * 4, values);
    }
  }
}

// Sums of the whole cluster: every block brings its own to shared memory as [token][local row] and finishes a
// share of the output rows. Called by all consumers; the copiers only take part in the two cluster_sync.
template <class C>
__device__ __forceinline__ void store_tile_of_cluster(const PrefillArgs& args, const TileOfGrid& tile,
                                                      const Sums<C>& sums, std::byte* memory, int rank) {
  auto* partial = reinterpret_cast<float*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  barrier_sync<1, C::kConsumers>();  // nobody reads the ring any more
#pragma unroll
  for (int i = 0; i < C::kTilesM; ++i) {
    const int group_row = C::kGated ? i * C::kOutputRows + warp / 4 * 64 : (warp / 4 * C::kTilesM + i) * 64;
    const int row = group_row + warp % 4 * 16 + lane / 4;
#pragma unroll
    for (int s = 0; s < C::kTokens / 2; ++s) {
      const int token = s / 4 * 8 + lane % 4 * 2 + s % 2;
      partial[token * C::kPartialStride + row + s / 2 % 2 * 8] = sums[i][s];
    }
  }
  cluster_sync();
  // This block's share, in rows of four: a thread takes the same rows of several tokens.
  const int first_quad = C::kOutputRows / 4 * rank / args.cluster;
  const RowTile of = row_tile_of<C>(args, tile.row_tile);
  const Results results = results_of(args, of.second);
  const int quads = C::kOutputRows / 4 * (rank + 1) / args.cluster - first_quad;
  const int tokens_at_once = C::kConsumers / quads;
  const int row = (first_quad + static_cast<int>(threadIdx.x) % quads) * 4;
  const int output_row = of.index * C::kOutputRows + row;
  float factors[2][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    factors[0][j] = factor_of(args, of.second, output_row + j);
    factors[1][j] = C::kGated ? factor_of(args, true, output_row + j) : 1.0F;
  }
  int token = static_cast<int>(threadIdx.x) / quads;
  if (token >= tokens_at_once) token = C::kTokens;  // threads left over
  for (; token < C::kTokens && tile.token_tile * C::kTokens + token < args.m; token += tokens_at_once) {
    float totals[2][4] = {};
#pragma unroll
    for (int matrix = 0; matrix < (C::kGated ? 2 : 1); ++matrix) {
      const std::uint32_t mine =
          shared_address(partial + token * C::kPartialStride + matrix * C::kOutputRows + row);
#pragma unroll 4
      for (int r = 0; r < args.cluster; ++r) {
        const float4 part = load_remote4(remote_address(mine, r));
        totals[matrix][0] += part.x, totals[matrix][1] += part.y;
        totals[matrix][2] += part.z, totals[matrix][3] += part.w;
      }
    }
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      values[j] = factors[0][j] * totals[0][j];
      if constexpr (C::kGated) values[j] = silu_mul(values[j], factors[1][j] * totals[1][j]);
    }
    store_quad(results, tile.token_tile * C::kTokens + token, output_row,
               {values[0], values[1], values[2], values[3]});
  }
  cluster_sync();
}

template <Format kFormat, class C>
__global__ void __launch_bounds__(C::kThreads, 1) prefill_kernel(const __grid_constant__ PrefillArgs args) {
  let_next_kernel_start();
  extern __shared__ std::byte raw[];
  std::byte* memory = raw + (1024 - shared_address(raw) % 1024) % 1024;
  __shared__ std::uint64_t barriers[2][C::kStages];
  const Ring ring{
      .stages = memory, .filled = shared_address(barriers[0]), .drained = shared_address(barriers[1])};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Part part = part_of_block(args);
  init_ring(ring, C::kStages, C::kGroups * 4);
  if (warp >= C::kGroups * 4) {
    lower_registers<C::kCopierRegisters>();
    copy_tiles<kFormat, C>(args, ring, part);
    if (args.cluster > 1) {
      cluster_sync();
      cluster_sync();
    }
  } else {
    raise_registers<C::kConsumerRegisters>();
    wait_for_earlier_kernels();
    const Blocks blocks = blocks_of_rank(args, part.rank);
    RingState state;
    for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
      const TileOfGrid tile = tile_of_grid(args, index);
      Sums<C> sums;
      if constexpr (C::kWide) {
        multiply_grouped<kFormat, C>(args, ring, state, blocks, sums);
      } else {
        multiply_folded<kFormat, C>(args, ring, state, blocks, sums);
      }
      if (args.cluster == 1) {
        store_tile<C>(args, tile, sums, memory);
      } else {
        store_tile_of_cluster<C>(args, tile, sums, memory, part.rank);
      }
    }
  }
}

int token_tile(int m) { return m <= 16 ? 16 : m <= 64 ? 64 : kMaxTokenTile; }
int padded_tokens(int m) { return ceil_div(m, token_tile(m)) * token_tile(m); }

template <Format kFormat, class C>
void launch_kernel(PrefillArgs args, const Launch& launch) {
  constexpr int kMinBlocksOfRank = 4;
  auto* kernel = prefill_kernel<kFormat, C>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  const auto fitting = [&](int size) {
    static FittingClusters clusters;
    return clusters.of(size, kernel, C::kThreads, C::kSharedBytes);
  };
  const auto tiles_of = [](const PackedWeight& w) {
    return ceil_div(w.num_tiles * kTileRows, C::kOutputRows);
  };
  args.first_row_tiles = tiles_of(args.w[0]);
  args.row_tiles = args.first_row_tiles + (args.second_y != nullptr ? tiles_of(args.w[1]) : 0);
  args.token_tiles = args.m_pad / C::kTokens;
  const int tiles = args.row_tiles * args.token_tiles;
  // Of adding up, in blocks of k.
  constexpr int kClusterCost = 6;
  args.cluster =
      choose_cluster(tiles, args.w[0].num_blocks, launch.num_sms, kMinBlocksOfRank, kClusterCost, fitting);
  const int groups = args.cluster > 1 ? tiles : std::min(tiles, launch.num_sms);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(groups * args.cluster)),
                    Together{.cluster = args.cluster}, C::kThreads, C::kSharedBytes, launch.stream, args);
}

template <Format kFormat, int kTokens>
void launch_tokens(const PrefillArgs& args, bool gated, const Launch& launch) {
  if constexpr (!has_wide_scales(kFormat)) {
    if (gated) {
      launch_kernel<kFormat, Config<kFormat, kTokens, true>>(args, launch);
      return;
    }
  }
  launch_kernel<kFormat, Config<kFormat, kTokens, false>>(args, launch);
}

void launch_products(const PrefillArgs& args, bool gated, const Launch& launch) {
  dispatch_format(args.w[0].format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    switch (token_tile(args.m)) {
      case 16: launch_tokens<kFormat, 16>(args, gated, launch); return;
      case 64: launch_tokens<kFormat, 64>(args, gated, launch); return;
      default: launch_tokens<kFormat, kMaxTokenTile>(args, gated, launch); return;
    }
  });
}

std::size_t input_bytes(const PackedWeight& w, int m) {
  return static_cast<std::size_t>(w.num_blocks) * static_cast<std::size_t>(padded_tokens(m)) * kInputRowBytes;
}

// Rounds the inputs, too.
PrefillArgs round_and_make_args(const Product& p, const PackedWeight& other, const Launch& launch) {
  const int m_pad = padded_tokens(p.m);
  launch_round_inputs(p, m_pad, reinterpret_cast<uint4*>(launch.scratch), launch);
  return {.w = {p.w, other},
          .inputs = launch.scratch,
          .y = p.y,
          .y_stride = p.y_stride,
          .m = p.m,
          .m_pad = m_pad,
          .accumulate = p.accumulate,
          .bf16_results = p.bf16_results};
}

}  // namespace

std::size_t prefill_scratch_bytes(const PackedWeight& w, int num_matrices, int m) {
  const bool two_products = num_matrices == 2 && has_wide_scales(w.format);
  const std::size_t outputs = static_cast<std::size_t>(m) * static_cast<std::size_t>(w.n) * sizeof(float);
  return input_bytes(w, m) + (two_products ? 2 * outputs : 0);
}

void launch_prefill_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  PrefillArgs args = round_and_make_args(p, up != nullptr ? *up : p.w, launch);
  if (up == nullptr || !has_wide_scales(p.w.format)) {
    launch_products(args, up != nullptr, launch);
    return;
  }
  auto* gate_sums = reinterpret_cast<float*>(launch.scratch + input_bytes(p.w, p.m));
  float* up_sums = gate_sums + static_cast<std::size_t>(p.m) * static_cast<std::size_t>(p.w.n);
  args.y = gate_sums;
  args.y_stride = p.w.n;
  args.second_y = up_sums;
  args.second_y_stride = p.w.n;
  launch_products(args, false, launch);
  launch_silu_mul(gate_sums, up_sums, p.m, p.w.n, p.y, p.y_stride, launch);
}

void launch_prefill_pair(const Product& first, const Product& second, const Launch& launch) {
  PrefillArgs args = round_and_make_args(first, second.w, launch);
  args.second_y = second.y;
  args.second_y_stride = second.y_stride;
  launch_products(args, false, launch);
}

}  // namespace nibble::kernels::cuda
