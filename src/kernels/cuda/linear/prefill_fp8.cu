// Products of FP8 activations, with wgmma on E4M3.
//
// As in prefill.cu weights are the register operand A and tokens the shared-memory operand B; here a stage is
// 128 of k, and its products are summed apart, since the tensor cores keep some 14 bits of a sum only, and
// because scales change with it: they are added in float32, times the scales of the weights and of the
// activations. Sums of 64 tokens at a time: while one such part is added, the tensor cores make the next.
//
// FP8 codes are operands as they are. MXFP4's become E4M3 with the exponents of their groups worked in,
// relative to the row's largest in the stage: exactly, where groups differ by up to 2^14.
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/linear/expand_e4m3.cuh"
#include "kernels/cuda/linear/inputs.h"
#include "kernels/cuda/linear/prefill_fp8.h"
#include "kernels/cuda/linear/tiles.cuh"

namespace nibble::kernels::cuda {
namespace {

constexpr int kStageBlocks = 2;  // of k: 128 codes
constexpr int kPartTokens = 64;
constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kWarps = kGroups * 4;
constexpr int kConsumers = kGroups * 128;
constexpr int kThreads = kConsumers + 128;
constexpr int kCopierRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kRows = kWarps * kTileRows;

// kGated: a warp's upper eight rows are the up projection of its lower eight, which are half a row tile.
template <Format kFormatOf, int kTokensOf, bool kGatedOf>
struct Config {
  static constexpr Format kFormat = kFormatOf;
  static constexpr int kTokens = kTokensOf;
  static constexpr bool kGated = kGatedOf;
  static constexpr int kParts = kTokens / kPartTokens;
  static constexpr int kOutputRows = kGated ? kRows / 2 : kRows;
  static constexpr int kInputBytes = kTokens * kInputRowBytes;
  static constexpr int kTileCodeBytes = kStageBlocks * block_bytes(kFormat);
  static constexpr int kCodesAt = kInputBytes;
  static constexpr int kInputScalesAt = kCodesAt + kWarps * kTileCodeBytes;
  static constexpr int kStageBytes = (kInputScalesAt + kTokens * 4 + 1023) / 1024 * 1024;
  static constexpr int kStages = std::min(8, kMaxRingBytes / kStageBytes);
  // A cluster's split over the ring: [token][row], so padded that a warp's stores meet no bank twice.
  static constexpr int kPartialStride = kRows + 4;
  static constexpr int kSharedBytes = std::max(kStages * kStageBytes, kPartialStride* kTokens * 4) + 1024;
};

// Blocks of k of a block of the cluster: whole stages.
__device__ __forceinline__ Blocks stages_of_rank(const PrefillArgs& args, int rank) {
  const int stages = (args.w[0].num_blocks + kStageBlocks - 1) / kStageBlocks;
  return {.begin = stages * rank / args.cluster * kStageBlocks,
          .end = min(stages * (rank + 1) / args.cluster * kStageBlocks, args.w[0].num_blocks)};
}

// The row tile that local row tile `i` is; the last four of a gated product are of the up matrix.
template <class C>
__device__ __forceinline__ TileAddress local_tile(const PrefillArgs& args, int row_tile, int i) {
  constexpr int kTilesOfGrid = C::kOutputRows / kTileRows;
  const PackedWeight& w = args.w[C::kGated ? i / 4 : 0];
  return tile_address(w, 0, min(row_tile * kTilesOfGrid + i % kTilesOfGrid, w.num_tiles - 1));
}

// What the copying warp brings: lane i < 8 the codes of local row tile i, then one lane the inputs and one
// their scales. (The copy engine takes some 60 cycles a copy, so those who multiply load the weights' scales
// themselves, ahead.)
template <class C>
struct Copier {
  const PrefillArgs& args;
  int lane;

  __device__ __forceinline__ void weights(int row_tile, int block, int count, std::uint32_t stage,
                                          std::uint32_t barrier) const {
    const auto bytes = static_cast<std::uint32_t>(count * block_bytes(C::kFormat));
    if (lane == 0) mbarrier_expect(barrier, kWarps * bytes + C::kTokens * (kInputRowBytes + 4U));
    if (lane >= kWarps) return;
    bulk_copy(stage + C::kCodesAt + lane * C::kTileCodeBytes,
              local_tile<C>(args, row_tile, lane).codes +
                  static_cast<std::int64_t>(block) * block_bytes(C::kFormat),
              bytes, barrier);
  }

  __device__ __forceinline__ void inputs(const Part& part, int token_tile, int block, std::uint32_t stage,
                                         std::uint32_t barrier) const {
    const std::int64_t row = static_cast<std::int64_t>(block / kStageBlocks) * args.m_pad +
                             static_cast<std::int64_t>(token_tile) * C::kTokens;
    if (lane == kWarps) {
      copy_inputs(args, part, stage, args.inputs + row * kInputRowBytes, C::kInputBytes, barrier);
    } else if (lane == kWarps + 1) {
      bulk_copy(stage + C::kInputScalesAt, args.input_scales + row, C::kTokens * 4, barrier);
    }
  }
};

template <class C>
__device__ __forceinline__ void copy_tiles(const PrefillArgs& args, const Ring& ring, const Part& part) {
  const Copier<C> copier{args, static_cast<int>(threadIdx.x) % 32};
  const Blocks blocks = stages_of_rank(args, part.k_rank(args));
  const auto stage_at = [&](int i) { return shared_address(ring.stages) + i * C::kStageBytes; };
  // Weights of the first stages do not depend on earlier kernels; their activations do.
  const int ahead = min(C::kStages, (blocks.end - blocks.begin + kStageBlocks - 1) / kStageBlocks);
  const TileOfGrid first_tile = tile_of_grid(args, part, part.first);
  for (int i = 0; i < ahead; ++i) {
    const int block = blocks.begin + i * kStageBlocks;
    copier.weights(first_tile.row_tile, block, min(kStageBlocks, blocks.end - block), stage_at(i),
                   barrier_at(ring.filled, i));
  }
  wait_for_earlier_kernels();
  RingState state;
  int position = 0;
  for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
    const TileOfGrid tile = tile_of_grid(args, part, index);
    for (int block = blocks.begin; block < blocks.end; block += kStageBlocks, ++position) {
      const std::uint32_t barrier = barrier_at(ring.filled, state.stage);
      if (position >= ahead) {
        if (position >= C::kStages) {
          mbarrier_wait(barrier_at(ring.drained, state.stage), state.parity ^ 1U);
        }
        copier.weights(tile.row_tile, block, min(kStageBlocks, blocks.end - block), stage_at(state.stage),
                       barrier);
      }
      copier.inputs(part, tile.token_tile, block, stage_at(state.stage), barrier);
      state.advance(C::kStages);
    }
  }
}

// A warp's operand A of a stage, four k32 steps, and what the lane's two rows are multiplied by.
struct Operand {
  std::uint32_t a[4][4];
  float scale[2];
};

// Of the two local row tiles and the half a warp's rows come from.
struct RowsOfWarp {
  int tile[2];
  bool upper[2];
};
template <class C>
__device__ __forceinline__ RowsOfWarp rows_of_warp(int warp) {
  if constexpr (C::kGated) {
    return {.tile = {warp / 2, kWarps / 2 + warp / 2}, .upper = {warp % 2 == 1, warp % 2 == 1}};
  }
  return {.tile = {warp, warp}, .upper = {false, true}};
}

// What a lane needs of its rows' scales in a stage.
template <Format kFormat>
struct StageScales;
template <>
struct StageScales<Format::fp8> {
  float of_row[2];
};
template <>
struct StageScales<Format::mxfp4> {
  std::uint32_t exponents[2][kStageBlocks];  // two groups of rows g and g + 8 a word
};

template <class C>
class ScaleLoader {
 public:
  __device__ ScaleLoader(const PrefillArgs& args, int row_tile, const RowsOfWarp& rows, int lane)
      : w_(args.w[0]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int first = C::kFormat == Format::fp8 && rows.upper[row] ? 8 : 0;
      from_[row] = local_tile<C>(args, row_tile, rows.tile[row]).scales + (lane / 4 + first) * 4;
    }
  }

  // Of the stage that begins with `block`.
  __device__ __forceinline__ StageScales<C::kFormat> load(int block) const {
    StageScales<C::kFormat> scales;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      if constexpr (C::kFormat == Format::fp8) {
        scales.of_row[row] = *reinterpret_cast<const float*>(from_[row] + scale_group(w_, block * 2) * 64);
      } else {
#pragma unroll
        for (int b = 0; b < kStageBlocks; ++b) {
          scales.exponents[row][b] =
              block + b < w_.num_blocks
                  ? *reinterpret_cast<const std::uint32_t*>(from_[row] + (block + b) * 32)
                  : 0U;
        }
      }
    }
    return scales;
  }

 private:
  const PackedWeight& w_;
  const std::byte* from_[2];
};

template <class C>
__device__ __forceinline__ Operand load_operand(const std::byte* stage, const RowsOfWarp& rows,
                                                const StageScales<Format::fp8>& scales, int count, int lane) {
  Operand operand;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::byte* codes = stage + C::kCodesAt + rows.tile[row] * C::kTileCodeBytes;
    operand.scale[row] = scales.of_row[row];
#pragma unroll
    for (int b = 0; b < kStageBlocks; ++b) {
      LaneCodes<Format::fp8> of_lane{};
      if (b < count) of_lane.load(codes + b * block_bytes(Format::fp8), lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 v = of_lane.vectors[i];
        operand.a[2 * b + i][row] = gather_e4m3(v.x, v.y, rows.upper[row]);
        operand.a[2 * b + i][2 + row] = gather_e4m3(v.z, v.w, rows.upper[row]);
      }
    }
  }
  return operand;
}

template <class C>
__device__ __forceinline__ Operand load_operand(const std::byte* stage, const RowsOfWarp& rows,
                                                const StageScales<Format::mxfp4>& scales, int count,
                                                int lane) {
  Operand operand;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::byte* codes = stage + C::kCodesAt + rows.tile[row] * C::kTileCodeBytes;
    const bool upper = rows.upper[row];
    std::uint32_t exponents[4];
    std::uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      exponents[i] = (scales.exponents[row][i / 2] >> ((upper ? 16 : 0) + 8 * (i % 2))) & 0xFFU;
      largest = max(largest, exponents[i]);
    }
    // A code is weight * 2^(6 + 253 - largest); what float32 cannot hold is zero.
    operand.scale[row] = largest > 132U ? __uint_as_float((largest - 132U) << 23) : 0.0F;
#pragma unroll
    for (int b = 0; b < kStageBlocks; ++b) {
      LaneCodes<Format::mxfp4> of_lane{};
      if (b < count) of_lane.load(codes + b * block_bytes(Format::mxfp4), lane);
      const uint4 v = of_lane.vectors[0];
      const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const MagnitudeTable table = magnitude_table(largest - exponents[2 * b + i]);
        operand.a[2 * b + i][row] = expand_e2m1(words[2 * i], upper, table);
        operand.a[2 * b + i][2 + row] = expand_e2m1(words[2 * i + 1], upper, table);
      }
    }
  }
  return operand;
}

template <class C>
using Sums = float[C::kParts][kPartTokens / 2];

// sums += part * scales; kSame: both rows have the same.
template <bool kSame>
__device__ __forceinline__ void add_part(const float* input_scales, const float (&scale)[2], int lane,
                                         const float (&part)[kPartTokens / 2],
                                         float (&sums)[kPartTokens / 2]) {
#pragma unroll
  for (int j = 0; j < kPartTokens / 8; ++j) {
    const float2 of_tokens = *reinterpret_cast<const float2*>(input_scales + j * 8 + lane % 4 * 2);
    const float low[2] = {of_tokens.x * scale[0], of_tokens.y * scale[0]};
    const float high[2] = {kSame ? low[0] : of_tokens.x * scale[1], kSame ? low[1] : of_tokens.y * scale[1]};
    sums[4 * j] = fmaf(part[4 * j], low[0], sums[4 * j]);
    sums[4 * j + 1] = fmaf(part[4 * j + 1], low[1], sums[4 * j + 1]);
    sums[4 * j + 2] = fmaf(part[4 * j + 2], high[0], sums[4 * j + 2]);
    sums[4 * j + 3] = fmaf(part[4 * j + 3], high[1], sums[4 * j + 3]);
  }
}

// The products of a stage, part by part.
template <class C, bool kSame>
__device__ __forceinline__ void multiply_stage(const std::byte* stage, const Operand& operand, int lane,
                                               Sums<C>& sums) {
  const std::uint64_t inputs = k_major(shared_address(stage));
  const auto* input_scales = reinterpret_cast<const float*>(stage + C::kInputScalesAt);
  float part[2][kPartTokens / 2];
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) {
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wgmma_e4m3(part[i % 2], operand.a[j],
                 inputs + static_cast<std::uint64_t>(i * (kPartTokens * kInputRowBytes / 16) + 2 * j), j);
    }
    wgmma_commit();
    if (i == 0) continue;
    wgmma_wait<1>();
    add_part<kSame>(input_scales + (i - 1) * kPartTokens, operand.scale, lane, part[(i - 1) % 2],
                    sums[i - 1]);
  }
  wgmma_wait<0>();
  add_part<kSame>(input_scales + (C::kParts - 1) * kPartTokens, operand.scale, lane,
                  part[(C::kParts - 1) % 2], sums[C::kParts - 1]);
}

template <class C>
__device__ __forceinline__ void multiply_tile(const PrefillArgs& args, const Ring& ring, RingState& state,
                                              int row_tile, const Blocks& blocks, Sums<C>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const RowsOfWarp rows = rows_of_warp<C>(static_cast<int>(threadIdx.x) / 32);
  const ScaleLoader<C> loader(args, row_tile, rows, lane);
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) clear(sums[i]);
  StageScales<C::kFormat> next = loader.load(blocks.begin);
  for (int block = blocks.begin; block < blocks.end; block += kStageBlocks) {
    const std::byte* stage = ring.stages + state.stage * C::kStageBytes;
    const StageScales<C::kFormat> scales = next;
    if (block + kStageBlocks < blocks.end) next = loader.load(block + kStageBlocks);
    mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
    const int count = min(kStageBlocks, blocks.end - block);
    const Operand operand = load_operand<C>(stage, rows, scales, count, lane);
    if (C::kFormat == Format::fp8 && !C::kGated &&
        __all_sync(0xFFFFFFFFU, operand.scale[0] == operand.scale[1])) {
      multiply_stage<C, true>(stage, operand, lane, sums);
    } else {
      multiply_stage<C, false>(stage, operand, lane, sums);
    }
    let_go(args, ring, state.stage, lane);
    state.advance(C::kStages);
  }
}

// The output row of the lane's lower row (not gated: the upper one is 8 further on).
template <class C>
__device__ __forceinline__ int output_row(const TileOfGrid& tile, int warp, int lane) {
  const int of_tile = C::kGated ? warp * 8 : warp * kTileRows;
  return tile.row_tile * C::kOutputRows + of_tile + lane / 4;
}

template <class C>
__device__ __forceinline__ void store_tile(const PrefillArgs& args, const TileOfGrid& tile,
                                           const Sums<C>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = output_row<C>(tile, static_cast<int>(threadIdx.x) / 32, lane);
  const float factor = factor_of(args.w[0], row);
  const float other = C::kGated ? factor_of(args.w[1], row) : factor_of(args.w[0], row + 8);
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) {
#pragma unroll
    for (int s = 0; s < kPartTokens / 2; s += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = tile.token_tile * C::kTokens + i * kPartTokens + s * 2 + lane % 4 * 2 + c;
        const float low = factor * sums[i][s + c];
        const float high = other * sums[i][s + 2 + c];
        store(args, token, row, C::kGated ? silu_mul(low, high) : low);
        if constexpr (!C::kGated) store(args, token, row + 8, high);
      }
    }
  }
}

// Sums of the whole cluster: every block brings its own to shared memory as [token][row of the warps] and
// finishes a share of the output rows. Called by all consumers; the copiers only take part in cluster_sync.
template <class C>
__device__ __forceinline__ void store_tile_of_cluster(const PrefillArgs& args, const TileOfGrid& tile,
                                                      const Sums<C>& sums, std::byte* memory, int rank) {
  auto* partial = reinterpret_cast<float*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  barrier_sync<1, kConsumers>();  // nobody reads the ring any more
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) {
#pragma unroll
    for (int s = 0; s < kPartTokens / 2; ++s) {
      const int token = i * kPartTokens + s / 4 * 8 + lane % 4 * 2 + s % 2;
      partial[token * C::kPartialStride + warp * kTileRows + s / 2 % 2 * 8 + lane / 4] = sums[i][s];
    }
  }
  cluster_sync();
  const int tokens = min(C::kTokens, args.m - tile.token_tile * C::kTokens);
  constexpr int kQuads = C::kOutputRows / 4;
  for (int i = rank * kConsumers + static_cast<int>(threadIdx.x); i < tokens * kQuads;
       i += args.cluster * kConsumers) {
    const int token = i / kQuads;
    const int row = i % kQuads * 4;
    const int local = C::kGated ? row / 8 * kTileRows + row % 8 : row;
    const std::uint32_t mine = shared_address(partial + token * C::kPartialStride + local);
    float totals[2][4] = {};
    for (int r = 0; r < args.cluster; ++r) {
#pragma unroll
      for (int half = 0; half < (C::kGated ? 2 : 1); ++half) {
        const float4 part = load_remote4(remote_address(mine + half * 8 * sizeof(float), r));
        totals[half][0] += part.x, totals[half][1] += part.y;
        totals[half][2] += part.z, totals[half][3] += part.w;
      }
    }
    const int output = tile.row_tile * C::kOutputRows + row;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float value = factor_of(args.w[0], output + j) * totals[0][j];
      if constexpr (C::kGated) value = silu_mul(value, factor_of(args.w[1], output + j) * totals[1][j]);
      store(args, tile.token_tile * C::kTokens + token, output + j, value);
    }
  }
  cluster_sync();
}

template <class C>
__global__ void __launch_bounds__(kThreads, 1) fp8_kernel(const __grid_constant__ PrefillArgs args) {
  let_next_kernel_start();
  extern __shared__ std::byte raw[];
  std::byte* memory = raw + (1024 - shared_address(raw) % 1024) % 1024;
  __shared__ std::uint64_t barriers[2][C::kStages];
  const Ring ring{
      .stages = memory, .filled = shared_address(barriers[0]), .drained = shared_address(barriers[1])};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Part part = part_of_block(args);
  init_ring(args, ring, C::kStages, kWarps);
  if (warp >= kWarps) {
    lower_registers<kCopierRegisters>();
    if (warp == kWarps) {
      copy_tiles<C>(args, ring, part);
    } else {
      wait_for_earlier_kernels();
    }
    __syncwarp();
    if (args.cluster > 1) {
      cluster_sync();
      cluster_sync();
    }
  } else {
    raise_registers<kConsumerRegisters>();
    wait_for_earlier_kernels();
    const Blocks blocks = stages_of_rank(args, part.k_rank(args));
    RingState state;
    for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
      const TileOfGrid tile = tile_of_grid(args, part, index);
      Sums<C> sums;
      multiply_tile<C>(args, ring, state, tile.row_tile, blocks, sums);
      if (args.cluster == 1) {
        store_tile<C>(args, tile, sums);
      } else {
        store_tile_of_cluster<C>(args, tile, sums, memory, part.rank);
      }
    }
  }
  __syncwarp();
  if (args.pair == 2) cluster_sync();  // the other one may still copy to here, or arrive
}

// How a product is cut.
struct Cut {
  int tokens = 0;  // of a tile
  int cluster = 1;
  int pair = 1;
  double cost = 0.0;  // of the busiest block, in tokens times stages
};

template <class C>
int fitting_clusters(int size) {
  static int known[kMaxCluster + 1] = {};
  if (known[size] == 0) {
    cudaFuncSetAttribute(fp8_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
    known[size] = max_clusters(fp8_kernel<C>, size, kThreads, C::kSharedBytes);
  }
  return known[size];
}

template <class C>
void consider(const PackedWeight& w, int m, int num_sms, Cut& best) {
  constexpr int kMinStages = 2;
  constexpr int kStageCost = 32;   // besides its tokens
  constexpr int kClusterCost = 4;  // of adding up, in stages
  const int stages = ceil_div(w.num_blocks, kStageBlocks);
  const int row_tiles = ceil_div(w.num_tiles * kTileRows, C::kOutputRows);
  const int token_tiles = ceil_div(m, C::kTokens);
  const int tiles = row_tiles * token_tiles;
  const int cluster = choose_cluster(tiles, stages, num_sms, kMinStages, kClusterCost,
                                     [](int size) { return fitting_clusters<C>(size); });
  const int pair = cluster == 1 && row_tiles > 1 ? 2 : 1;
  const int rounds = pair == 2      ? ceil_div(ceil_div(row_tiles, 2) * token_tiles, fitting_clusters<C>(2))
                     : cluster == 1 ? 1
                                    : ceil_div(tiles, fitting_clusters<C>(cluster));
  const double cost = static_cast<double>(rounds) * (C::kTokens + kStageCost) *
                      (ceil_div(stages, cluster) + (cluster > 1 ? kClusterCost : 0));
  if (best.tokens == 0 || cost < best.cost)
    best = {.tokens = C::kTokens, .cluster = cluster, .pair = pair, .cost = cost};
}

// fn(Config) with the tile of the cut.
template <Format kFormat, bool kGated, class Fn>
void with_tokens(int tokens, const Fn& fn) {
  switch (tokens) {
    case 64: fn(Config<kFormat, 64, kGated>{}); return;
    case 128: fn(Config<kFormat, 128, kGated>{}); return;
    case 192: fn(Config<kFormat, 192, kGated>{}); return;
    default: fn(Config<kFormat, 256, kGated>{}); return;
  }
}

template <Format kFormat, bool kGated>
Cut choose_cut(const PackedWeight& w, int m, int num_sms) {
  Cut best;
  for (const int tokens : {64, 128, 192, 256}) {
    if (tokens > 64 && m <= tokens - 64) break;
    with_tokens<kFormat, kGated>(tokens,
                                 [&](auto config) { consider<decltype(config)>(w, m, num_sms, best); });
  }
  return best;
}

template <class C>
void launch_kernel(PrefillArgs args, const Launch& launch) {
  cudaFuncSetAttribute(fp8_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  args.row_tiles = ceil_div(ceil_div(args.w[0].num_tiles * kTileRows, C::kOutputRows), args.pair);
  args.token_tiles = args.m_pad / C::kTokens;
  const int group = args.cluster * args.pair;
  const int tiles = args.row_tiles * args.token_tiles;
  const int groups = args.cluster > 1 ? tiles : std::min(tiles, fitting_clusters<C>(group));
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(groups * group));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = C::kSharedBytes;
  config.stream = launch.stream;
  launch_early(config, attributes, group);
  cudaLaunchKernelEx(&config, fp8_kernel<C>, args);
}

// Tiles have 256 tokens at most.
constexpr int kMaxPadding = 255;
std::size_t panel_tokens(const PackedWeight& w, int m) {
  return static_cast<std::size_t>(ceil_div(w.num_blocks, kStageBlocks)) *
         static_cast<std::size_t>(m + kMaxPadding);
}

template <Format kFormat, bool kGated>
void launch_format(const Product& p, const PackedWeight* up, const Launch& launch) {
  const Cut cut = choose_cut<kFormat, kGated>(p.w, p.m, launch.num_sms);
  const int m_pad = ceil_div(p.m, cut.tokens) * cut.tokens;
  auto* scales = reinterpret_cast<float*>(launch.scratch + panel_tokens(p.w, p.m) * kInputRowBytes);
  launch_quantize_inputs(p, kFormat == Format::fp8 ? ByteOrder::pairs : ByteOrder::interlaced, m_pad,
                         reinterpret_cast<uint4*>(launch.scratch), scales, launch);
  const PrefillArgs args{.w = {p.w, kGated ? *up : p.w},
                         .inputs = launch.scratch,
                         .input_scales = scales,
                         .y = p.y,
                         .y_stride = p.y_stride,
                         .m = p.m,
                         .m_pad = m_pad,
                         .row_tiles = 0,
                         .token_tiles = 0,
                         .cluster = cut.cluster,
                         .pair = cut.pair,
                         .accumulate = p.accumulate};
  with_tokens<kFormat, kGated>(cut.tokens,
                               [&](auto config) { launch_kernel<decltype(config)>(args, launch); });
}

}  // namespace

bool can_multiply_fp8(const PackedWeight& w) {
  if (w.num_groups != 1 || w.permutation_offset != 0) return false;
  if (w.format == Format::mxfp4) return true;
  return w.format == Format::fp8 && (w.scale_groups == 1 || w.chunks_per_scale % 4 == 0);
}

std::size_t fp8_scratch_bytes(const PackedWeight& w, int m) {
  return panel_tokens(w, m) * (kInputRowBytes + sizeof(float));
}

void launch_fp8_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  if (p.w.format == Format::fp8) {
    up != nullptr ? launch_format<Format::fp8, true>(p, up, launch)
                  : launch_format<Format::fp8, false>(p, up, launch);
  } else {
    up != nullptr ? launch_format<Format::mxfp4, true>(p, up, launch)
                  : launch_format<Format::mxfp4, false>(p, up, launch);
  }
}

}  // namespace nibble::kernels::cuda
