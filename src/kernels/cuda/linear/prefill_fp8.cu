// Products of FP8 activations, with wgmma on E4M3.
//
// As in prefill.cu weights are the register operand A and tokens the shared-memory operand B; here a stage is
// 128 of k, and its products are summed apart, since the tensor cores keep some 14 bits of a sum only, and
// because scales change with it: they are added in float32, times the scales of the weights and of the
// activations. Sums of 64 tokens at a time: while one such part is added, the tensor cores make the next.
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/linear/inputs.h"
#include "kernels/cuda/linear/prefill_fp8.h"
#include "kernels/cuda/linear/tiles.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kStageBlocks = 2;  // of k: 128 codes
constexpr int kBlockBytes = block_bytes(Format::fp8);
constexpr int kPartTokens = 64;
constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kWarps = kGroups * 4;
constexpr int kConsumers = kGroups * 128;
constexpr int kThreads = kConsumers + 128;
constexpr int kCopierRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kRows = kWarps * kTileRows;

// kGated: a warp's upper eight rows are the up projection of its lower eight, which are half a row tile.
template <int kTokensOf, bool kGatedOf>
struct Config {
  static constexpr int kTokens = kTokensOf;
  static constexpr bool kGated = kGatedOf;
  static constexpr int kParts = kTokens / kPartTokens;
  static constexpr int kOutputRows = kGated ? kRows / 2 : kRows;
  static constexpr int kInputBytes = kTokens * kInputRowBytes;
  static constexpr int kTileCodeBytes = kStageBlocks * kBlockBytes;
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
    const auto bytes = static_cast<std::uint32_t>(count * kBlockBytes);
    if (lane == 0) mbarrier_expect(barrier, kWarps * bytes + C::kTokens * (kInputRowBytes + 4U));
    if (lane >= kWarps) return;
    bulk_copy(stage + C::kCodesAt + lane * C::kTileCodeBytes,
              local_tile<C>(args, row_tile, lane).codes + static_cast<std::int64_t>(block) * kBlockBytes,
              bytes, barrier);
  }

  __device__ __forceinline__ void inputs(int token_tile, int block, std::uint32_t stage,
                                         std::uint32_t barrier) const {
    const std::int64_t row = static_cast<std::int64_t>(block / kStageBlocks) * args.m_pad +
                             static_cast<std::int64_t>(token_tile) * C::kTokens;
    if (lane == kWarps) {
      bulk_copy(stage, args.inputs + row * kInputRowBytes, C::kInputBytes, barrier);
    } else if (lane == kWarps + 1) {
      bulk_copy(stage + C::kInputScalesAt, args.input_scales + row, C::kTokens * 4, barrier);
    }
  }
};

template <class C>
__device__ __forceinline__ void copy_tiles(const PrefillArgs& args, const Ring& ring, const Part& part) {
  const Copier<C> copier{args, static_cast<int>(threadIdx.x) % 32};
  const Blocks blocks = stages_of_rank(args, part.rank);
  const auto stage_at = [&](int i) { return shared_address(ring.stages) + i * C::kStageBytes; };
  // Weights of the first stages do not depend on earlier kernels; their activations do.
  const int ahead = min(C::kStages, (blocks.end - blocks.begin + kStageBlocks - 1) / kStageBlocks);
  const TileOfGrid first_tile = tile_of_grid(args, part.first);
  for (int i = 0; i < ahead; ++i) {
    const int block = blocks.begin + i * kStageBlocks;
    copier.weights(first_tile.row_tile, block, min(kStageBlocks, blocks.end - block), stage_at(i),
                   barrier_at(ring.filled, i));
  }
  wait_for_earlier_kernels();
  RingState state;
  int position = 0;
  for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
    const TileOfGrid tile = tile_of_grid(args, index);
    for (int block = blocks.begin; block < blocks.end; block += kStageBlocks, ++position) {
      const std::uint32_t barrier = barrier_at(ring.filled, state.stage);
      if (position >= ahead) {
        if (position >= C::kStages) {
          mbarrier_wait(barrier_at(ring.drained, state.stage), state.parity ^ 1U);
        }
        copier.weights(tile.row_tile, block, min(kStageBlocks, blocks.end - block), stage_at(state.stage),
                       barrier);
      }
      copier.inputs(tile.token_tile, block, stage_at(state.stage), barrier);
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

// Scales of a lane's two rows.
template <class C>
class ScaleLoader {
 public:
  __device__ ScaleLoader(const PrefillArgs& args, int row_tile, const RowsOfWarp& rows, int lane)
      : w_(args.w[0]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const std::byte* scales = local_tile<C>(args, row_tile, rows.tile[row]).scales;
      from_[row] = reinterpret_cast<const float*>(scales) + lane / 4 + (rows.upper[row] ? 8 : 0);
    }
  }

  // Of the stage that begins with `block`.
  __device__ __forceinline__ void load(int block, float (&scale)[2]) const {
    const int at = scale_group(w_, block * 2) * kTileRows;
    scale[0] = from_[0][at];
    scale[1] = from_[1][at];
  }

 private:
  const PackedWeight& w_;
  const float* from_[2];
};

// A register holds four codes of one row from one k16 step, of the lane's two words there.
__device__ __forceinline__ std::uint32_t gather_row(std::uint32_t even, std::uint32_t odd, bool upper) {
  return __byte_perm(even, odd, upper ? 0x6420U : 0x7531U);
}

template <class C>
__device__ __forceinline__ void load_operand(const std::byte* stage, const RowsOfWarp& rows, int count,
                                             int lane, Operand& operand) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::byte* codes = stage + C::kCodesAt + rows.tile[row] * C::kTileCodeBytes;
#pragma unroll
    for (int b = 0; b < kStageBlocks; ++b) {
      LaneCodes<Format::fp8> of_lane{};
      if (b < count) of_lane.load(codes + b * kBlockBytes, lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 v = of_lane.vectors[i];
        operand.a[2 * b + i][row] = gather_row(v.x, v.y, rows.upper[row]);
        operand.a[2 * b + i][2 + row] = gather_row(v.z, v.w, rows.upper[row]);
      }
    }
  }
}

template <class C>
using Sums = float[C::kParts][kPartTokens / 2];

// sums += part * scales.
__device__ __forceinline__ void add_part(const float* input_scales, const float (&scale)[2], int lane,
                                         const float (&part)[kPartTokens / 2],
                                         float (&sums)[kPartTokens / 2]) {
#pragma unroll
  for (int j = 0; j < kPartTokens / 8; ++j) {
    const float2 of_tokens = *reinterpret_cast<const float2*>(input_scales + j * 8 + lane % 4 * 2);
    const float low[2] = {of_tokens.x * scale[0], of_tokens.y * scale[0]};
    const float high[2] = {of_tokens.x * scale[1], of_tokens.y * scale[1]};
    sums[4 * j] = fmaf(part[4 * j], low[0], sums[4 * j]);
    sums[4 * j + 1] = fmaf(part[4 * j + 1], low[1], sums[4 * j + 1]);
    sums[4 * j + 2] = fmaf(part[4 * j + 2], high[0], sums[4 * j + 2]);
    sums[4 * j + 3] = fmaf(part[4 * j + 3], high[1], sums[4 * j + 3]);
  }
}

// The products of a stage, part by part.
template <class C>
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
    add_part(input_scales + (i - 1) * kPartTokens, operand.scale, lane, part[(i - 1) % 2], sums[i - 1]);
  }
  wgmma_wait<0>();
  add_part(input_scales + (C::kParts - 1) * kPartTokens, operand.scale, lane, part[(C::kParts - 1) % 2],
           sums[C::kParts - 1]);
}

template <class C>
__device__ __forceinline__ void multiply_tile(const PrefillArgs& args, const Ring& ring, RingState& state,
                                              int row_tile, const Blocks& blocks, Sums<C>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const RowsOfWarp rows = rows_of_warp<C>(static_cast<int>(threadIdx.x) / 32);
  const ScaleLoader<C> loader(args, row_tile, rows, lane);
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) clear(sums[i]);
  float next[2];
  loader.load(blocks.begin, next);
  for (int block = blocks.begin; block < blocks.end; block += kStageBlocks) {
    const std::byte* stage = ring.stages + state.stage * C::kStageBytes;
    Operand operand{.scale = {next[0], next[1]}};
    if (block + kStageBlocks < blocks.end) loader.load(block + kStageBlocks, next);
    mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
    const int count = min(kStageBlocks, blocks.end - block);
    load_operand<C>(stage, rows, count, lane, operand);
    multiply_stage<C>(stage, operand, lane, sums);
    if (lane == 0) mbarrier_arrive(barrier_at(ring.drained, state.stage));
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
  init_ring(ring, C::kStages, kWarps);
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
    const Blocks blocks = stages_of_rank(args, part.rank);
    RingState state;
    for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
      const TileOfGrid tile = tile_of_grid(args, index);
      Sums<C> sums;
      multiply_tile<C>(args, ring, state, tile.row_tile, blocks, sums);
      if (args.cluster == 1) {
        store_tile<C>(args, tile, sums);
      } else {
        store_tile_of_cluster<C>(args, tile, sums, memory, part.rank);
      }
    }
  }
}

// How a product is cut.
struct Cut {
  int tokens = 0;  // of a tile
  int cluster = 1;
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
  const int tiles = ceil_div(w.num_tiles * kTileRows, C::kOutputRows) * ceil_div(m, C::kTokens);
  const int cluster = choose_cluster(tiles, stages, num_sms, kMinStages, kClusterCost,
                                     [](int size) { return fitting_clusters<C>(size); });
  const int rounds = ceil_div(tiles, cluster == 1 ? num_sms : fitting_clusters<C>(cluster));
  const double cost = static_cast<double>(rounds) * (C::kTokens + kStageCost) *
                      (ceil_div(stages, cluster) + (cluster > 1 ? kClusterCost : 0));
  if (best.tokens == 0 || cost < best.cost) best = {.tokens = C::kTokens, .cluster = cluster, .cost = cost};
}

// fn(Config) with the tile of the cut. (256 tokens leave no registers: slower, for all that they read less.)
template <bool kGated, class Fn>
void with_tokens(int tokens, const Fn& fn) {
  switch (tokens) {
    case 64: fn(Config<64, kGated>{}); return;
    case 128: fn(Config<128, kGated>{}); return;
    default: fn(Config<192, kGated>{}); return;
  }
}

template <bool kGated>
Cut choose_cut(const PackedWeight& w, int m, int num_sms) {
  Cut best;
  for (const int tokens : {64, 128, 192}) {
    if (tokens > 64 && m <= tokens - 64) break;
    with_tokens<kGated>(tokens, [&](auto config) { consider<decltype(config)>(w, m, num_sms, best); });
  }
  return best;
}

template <class C>
void launch_kernel(PrefillArgs args, const Launch& launch) {
  cudaFuncSetAttribute(fp8_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  args.row_tiles = ceil_div(args.w[0].num_tiles * kTileRows, C::kOutputRows);
  args.token_tiles = args.m_pad / C::kTokens;
  const int tiles = args.row_tiles * args.token_tiles;
  const int groups = args.cluster > 1 ? tiles : std::min(tiles, launch.num_sms);
  launch_overlapped_clusters(fp8_kernel<C>, dim3(static_cast<unsigned>(groups * args.cluster)), args.cluster,
                             kThreads, C::kSharedBytes, launch.stream, args);
}

// Tiles have 192 tokens at most.
constexpr int kMaxPadding = 191;
std::size_t panel_tokens(const PackedWeight& w, int m) {
  return static_cast<std::size_t>(ceil_div(w.num_blocks, kStageBlocks)) *
         static_cast<std::size_t>(m + kMaxPadding);
}

template <bool kGated>
void launch_gated(const Product& p, const PackedWeight* up, const Launch& launch) {
  const Cut cut = choose_cut<kGated>(p.w, p.m, launch.num_sms);
  const int m_pad = ceil_div(p.m, cut.tokens) * cut.tokens;
  auto* scales = reinterpret_cast<float*>(launch.scratch + panel_tokens(p.w, p.m) * kInputRowBytes);
  launch_quantize_inputs(p, m_pad, reinterpret_cast<uint4*>(launch.scratch), scales, launch);
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
                         .accumulate = p.accumulate,
                         .bf16_results = p.bf16_results};
  with_tokens<kGated>(cut.tokens, [&](auto config) { launch_kernel<decltype(config)>(args, launch); });
}

}  // namespace

bool can_multiply_fp8(const PackedWeight& w) {
  return w.format == Format::fp8 && w.num_groups == 1 && (w.scale_groups == 1 || w.chunks_per_scale % 4 == 0);
}

std::size_t fp8_scratch_bytes(const PackedWeight& w, int m) {
  return panel_tokens(w, m) * (kInputRowBytes + sizeof(float));
}

void launch_fp8_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  up != nullptr ? launch_gated<true>(p, up, launch) : launch_gated<false>(p, up, launch);
}

}  // namespace nibble::kernels::cuda
