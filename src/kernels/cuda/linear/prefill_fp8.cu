// Products of FP8 activations, with wgmma on E4M3.
//
// As in prefill.cu weights are the register operand A and tokens the shared-memory operand B; here a stage is
// 128 of k, and its products are summed apart, since the tensor cores keep some 14 bits of a sum only, and
// because scales change with it: they are added in float32, times the scales of the weights and of the
// activations. Whatever warps do meanwhile slows the tensor cores down, so what counts is how few
// instructions a product costs besides: many tokens a tile, one multiplication of scales for two rows if they
// are alike, loads ahead.
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
constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kWarps = kGroups * 4;
constexpr int kConsumers = kGroups * 128;
constexpr int kThreads = kConsumers + 128;
constexpr int kCopierRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kRowsOfGroup = 4 * kTileRows;
constexpr int kRows = kGroups * kRowsOfGroup;
constexpr int kOutBarrier = 4;  // and the next one
constexpr int kMaxSharedBytes = 224 * 1024;

// kGated: the second warpgroup's rows are the up projection of the first one's.
// kParts: of a stage's tokens, whose products are summed at once.
template <int kTokensOf, int kPartsOf, bool kGatedOf>
struct Config {
  static constexpr int kTokens = kTokensOf;
  static constexpr int kParts = kPartsOf;
  static constexpr int kPartTokens = kTokens / kParts;
  static constexpr bool kGated = kGatedOf;
  static constexpr int kOutputRows = kGated ? kRows / 2 : kRows;
  static constexpr int kInputBytes = kTokens * kInputRowBytes;
  static constexpr int kTileCodeBytes = kStageBlocks * kBlockBytes;
  static constexpr int kCodesAt = kInputBytes;
  static constexpr int kInputScalesAt = kCodesAt + kWarps * kTileCodeBytes;
  static constexpr int kStageBytes = (kInputScalesAt + kTokens * 4 + 1023) / 1024 * 1024;
  // Results on their way out, per warpgroup: [token][row], so padded that a warp's stores meet no bank twice.
  static constexpr int kOutTokens = 32;
  static constexpr int kOutStride = kRowsOfGroup + 4;
  static constexpr int kOutBytes = kGroups * kOutTokens * kOutStride * 4;
  static constexpr int kStages = std::min(8, (kMaxSharedBytes - kOutBytes) / kStageBytes);
  // A cluster's split over the ring: [token][row], so padded that a warp's stores meet no bank twice.
  static constexpr int kPartialStride = kRows + 4;
  static constexpr int kRingBytes =
      std::max(kStages * kStageBytes, (kPartialStride * kTokens * 4 + 1023) / 1024 * 1024);
  static constexpr int kSharedBytes = kRingBytes + kOutBytes + 1024;
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

// Scales of a lane's two rows, eight apart.
template <class C>
class RowScales {
 public:
  __device__ RowScales(const PrefillArgs& args, int row_tile, int warp, int lane) : w_(args.w[0]) {
    from_ = reinterpret_cast<const float*>(local_tile<C>(args, row_tile, warp).scales) + lane / 4;
  }

  // Of the stage that begins with `block`.
  __device__ __forceinline__ void load(int block, float (&scale)[2]) const {
    const float* at = from_ + scale_group(w_, block * 2) * kTileRows;
    scale[0] = at[0];
    scale[1] = at[8];
  }

 private:
  const PackedWeight& w_;
  const float* from_;
};

// A lane's codes of a stage, as they lie there, and as the operand A of its four k32 steps.
struct StageCodes {
  LaneCodes<Format::fp8> blocks[kStageBlocks];

  __device__ __forceinline__ void load(const std::byte* tile, int lane) {
#pragma unroll
    for (int b = 0; b < kStageBlocks; ++b) blocks[b].load(tile + b * kBlockBytes, lane);
  }

  // `count` blocks of them; a missing one is zero.
  __device__ __forceinline__ void arrange(int count, std::uint32_t (&a)[4][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // A register holds four codes of one row from one k16 step, of the lane's two words there.
      const uint4 v = blocks[i / 2].vectors[i % 2];
      const bool is_there = i / 2 < count;
      a[i][0] = is_there ? __byte_perm(v.x, v.y, 0x7531U) : 0U;
      a[i][1] = is_there ? __byte_perm(v.x, v.y, 0x6420U) : 0U;
      a[i][2] = is_there ? __byte_perm(v.z, v.w, 0x7531U) : 0U;
      a[i][3] = is_there ? __byte_perm(v.z, v.w, 0x6420U) : 0U;
    }
  }
};

template <class C>
using Sums = float[C::kParts][C::kPartTokens / 2];

// Scales of the tokens of a part, of four columns each, loaded ahead: loads take longer than sums.
template <class C>
using TokenScales = float4[C::kPartTokens / 16];

template <class C>
__device__ __forceinline__ void load_scales(const float* input_scales, int lane, TokenScales<C>& scales) {
#pragma unroll
  for (int j = 0; j < C::kPartTokens / 16; ++j) {
    scales[j] = *reinterpret_cast<const float4*>(input_scales + j * 16 + lane % 4 * 4);
  }
}

// scales *= of_row
template <class C>
__device__ __forceinline__ void multiply_scales(float of_row, TokenScales<C>& scales) {
#pragma unroll
  for (float4& of_tokens : scales) {
    of_tokens.x *= of_row, of_tokens.y *= of_row;
    of_tokens.z *= of_row, of_tokens.w *= of_row;
  }
}

// part *= of_rows, where the lane's two rows have scales of their own. A branch of its own, empty statement
// and all: the compiler would rather multiply always and choose.
template <class C>
__device__ __forceinline__ void multiply_rows(const float (&of_rows)[2], float (&part)[C::kPartTokens / 2]) {
  asm volatile("");
#pragma unroll
  for (int i = 0; i < C::kPartTokens / 2; ++i) part[i] *= of_rows[i / 2 % 2];
}

// sums += part * scales
template <class C>
__device__ __forceinline__ void add_part(const TokenScales<C>& scales,
                                         const float (&part)[C::kPartTokens / 2],
                                         float (&sums)[C::kPartTokens / 2]) {
#pragma unroll
  for (int j = 0; j < C::kPartTokens / 16; ++j) {
    const float of_tokens[4] = {scales[j].x, scales[j].y, scales[j].z, scales[j].w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sums[8 * j + i] = fmaf(part[8 * j + i], of_tokens[i / 4 * 2 + i % 2], sums[8 * j + i]);
    }
  }
}

// The tensor cores belong to one warpgroup after the other: while one's products are made, the other adds up
// its last ones. Without turns both would do the same at the same time.
constexpr int kTurnBarrier = 2;  // and the next one
__device__ __forceinline__ void await_turn(int group) { barrier_sync(kTurnBarrier + group, kConsumers); }
__device__ __forceinline__ void pass_turn(int group) { barrier_arrive(kTurnBarrier + 1 - group, kConsumers); }

template <class C>
__device__ __forceinline__ void multiply_tile(const PrefillArgs& args, const Ring& ring, RingState& state,
                                              int row_tile, const Blocks& blocks, Sums<C>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const RowScales<C> row_scales(args, row_tile, warp, lane);
  const std::byte* tile_codes = ring.stages + C::kCodesAt + warp * C::kTileCodeBytes;
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) clear(sums[i]);
  std::uint32_t a[4][4];
  StageCodes codes;
  float scale[2];
  float next_scale[2];
  row_scales.load(blocks.begin, next_scale);
  mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
  codes.load(tile_codes + state.stage * C::kStageBytes, lane);
  for (int block = blocks.begin; block < blocks.end; block += kStageBlocks) {
    const std::byte* stage = ring.stages + state.stage * C::kStageBytes;
    const std::uint32_t drained = barrier_at(ring.drained, state.stage);
    const std::uint64_t inputs = k_major(shared_address(stage));
    const auto* input_scales = reinterpret_cast<const float*>(stage + C::kInputScalesAt);
    state.advance(C::kStages);
    codes.arrange(blocks.end - block, a);
    scale[0] = next_scale[0];
    scale[1] = next_scale[1];
    const bool rows_alike = __all_sync(0xFFFFFFFFU, scale[0] == scale[1]);
    const int next_block = block + kStageBlocks;
    row_scales.load(min(next_block, blocks.end - 1), next_scale);
#pragma unroll
    for (int i = 0; i < C::kParts; ++i) {
      float part[C::kPartTokens / 2];
      TokenScales<C> token_scales;
      load_scales<C>(input_scales + i * C::kPartTokens, lane, token_scales);
      if (rows_alike) multiply_scales<C>(scale[0], token_scales);
      if (i == C::kParts - 1 && next_block < blocks.end) {
        mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
      }
      await_turn(warp / 4);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        wgmma_e4m3(part, a[j],
                   inputs + static_cast<std::uint64_t>(i * (C::kPartTokens * kInputRowBytes / 16) + 2 * j),
                   j);
      }
      wgmma_commit();
      pass_turn(warp / 4);
      // Without a branch, or the compiler takes the registers of the operand that is being read. (The last
      // stage's loads are for nothing.)
      if (i == C::kParts - 1) codes.load(tile_codes + state.stage * C::kStageBytes, lane);
      wgmma_wait<0>();
      if (!rows_alike) multiply_rows<C>(scale, part);
      add_part<C>(token_scales, part, sums[i]);
    }
    if (lane == 0) mbarrier_arrive(drained);
  }
}

// Through shared memory, so that whole lines leave: a warp has 32 bytes of a token.
template <class C>
__device__ __forceinline__ void store_tile(const PrefillArgs& args, const TileOfGrid& tile,
                                           const Sums<C>& sums, std::byte* memory) {
  constexpr int kSums = C::kOutTokens / 2;  // of a round
  constexpr int kThreadsOfRound = C::kGated ? kConsumers : kConsumers / kGroups;
  constexpr int kQuads = kRowsOfGroup / 4;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int thread = static_cast<int>(threadIdx.x) % kThreadsOfRound;
  const Results results = results_of(args, false);
  auto* const out = reinterpret_cast<float*>(memory + C::kRingBytes);
  constexpr int kGroupFloats = C::kOutTokens * C::kOutStride;
  float* const own = out + group * kGroupFloats + lane % 4 * 2 * C::kOutStride +
                     static_cast<int>(threadIdx.x) / 32 % 4 * kTileRows + lane / 4;
  const float* const from = out + (C::kGated ? 0 : group * kGroupFloats);
  const int row0 = tile.row_tile * C::kOutputRows + (C::kGated ? 0 : group * kRowsOfGroup);
  const auto sync = [&] { barrier_sync(C::kGated ? kOutBarrier : kOutBarrier + group, kThreadsOfRound); };
#pragma unroll
  for (int round = 0; round < C::kTokens / C::kOutTokens; ++round) {
    sync();  // the last round has left
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      const int at = round * kSums + s;
      own[(s / 4 * 8 + s % 2) * C::kOutStride + s / 2 % 2 * 8] =
          sums[at / (C::kPartTokens / 2)][at % (C::kPartTokens / 2)];
    }
    sync();
#pragma unroll
    for (int i = thread; i < C::kOutTokens * kQuads; i += kThreadsOfRound) {
      const int token = i / kQuads;
      const float* at = from + token * C::kOutStride + i % kQuads * 4;
      float4 values = *reinterpret_cast<const float4*>(at);
      if constexpr (C::kGated) {
        const float4 up = *reinterpret_cast<const float4*>(at + kGroupFloats);
        values = {silu_mul(values.x, up.x), silu_mul(values.y, up.y), silu_mul(values.z, up.z),
                  silu_mul(values.w, up.w)};
      }
      store_quad(results, tile.token_tile * C::kTokens + round * C::kOutTokens + token, row0 + i % kQuads * 4,
                 values);
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
  const Results results = results_of(args, false);
  barrier_sync<1, kConsumers>();  // nobody reads the ring any more
#pragma unroll
  for (int i = 0; i < C::kParts; ++i) {
#pragma unroll
    for (int s = 0; s < C::kPartTokens / 2; ++s) {
      const int token = i * C::kPartTokens + s / 4 * 8 + lane % 4 * 2 + s % 2;
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
    const std::uint32_t mine = shared_address(partial + token * C::kPartialStride + row);
    float4 totals[2] = {};
    for (int r = 0; r < args.cluster; ++r) {
#pragma unroll
      for (int half = 0; half < (C::kGated ? 2 : 1); ++half) {
        const float4 part = load_remote4(remote_address(mine + half * kRowsOfGroup * sizeof(float), r));
        totals[half].x += part.x, totals[half].y += part.y;
        totals[half].z += part.z, totals[half].w += part.w;
      }
    }
    if constexpr (C::kGated) {
      totals[0] = {silu_mul(totals[0].x, totals[1].x), silu_mul(totals[0].y, totals[1].y),
                   silu_mul(totals[0].z, totals[1].z), silu_mul(totals[0].w, totals[1].w)};
    }
    store_quad(results, tile.token_tile * C::kTokens + token, tile.row_tile * C::kOutputRows + row,
               totals[0]);
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
    if (warp >= 4) pass_turn(1);  // the first one
    for (int index = part.first; index < args.row_tiles * args.token_tiles; index += part.step) {
      const TileOfGrid tile = tile_of_grid(args, index);
      Sums<C> sums;
      multiply_tile<C>(args, ring, state, tile.row_tile, blocks, sums);
      if (args.cluster == 1) {
        store_tile<C>(args, tile, sums, memory);
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
  std::int64_t cost = 0;  // of the busiest block, in ns
};

template <class C>
int fitting_clusters(int size) {
  static FittingClusters clusters;
  cudaFuncSetAttribute(fp8_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  return clusters.of(size, fp8_kernel<C>, kThreads, C::kSharedBytes);
}

// ns of a stage, as measured on an H100.
constexpr std::int64_t stage_cost(int tokens) {
  return tokens == 64 ? 620 : tokens == 128 ? 750 : tokens == 192 ? 940 : 1320;
}

template <class C>
void consider(const PackedWeight& w, int m, int num_sms, Cut& best) {
  constexpr int kMinStages = 2;
  constexpr int kStoreCost = 3;    // of writing results, in stages
  constexpr int kClusterCost = 3;  // of adding up, likewise
  const int stages = ceil_div(w.num_blocks, kStageBlocks);
  const int tiles = ceil_div(w.num_tiles * kTileRows, C::kOutputRows) * ceil_div(m, C::kTokens);
  const int cluster = choose_cluster(tiles, stages, num_sms, kMinStages, kClusterCost,
                                     [](int size) { return fitting_clusters<C>(size); });
  const int rounds = ceil_div(tiles, cluster == 1 ? num_sms : fitting_clusters<C>(cluster));
  const std::int64_t cost = rounds * stage_cost(C::kTokens) *
                            (ceil_div(stages, cluster) + kStoreCost + (cluster > 1 ? kClusterCost : 0));
  if (best.tokens == 0 || cost < best.cost) best = {.tokens = C::kTokens, .cluster = cluster, .cost = cost};
}

// fn(Config) with the tile of the cut.
template <bool kGated, class Fn>
void with_tokens(int tokens, const Fn& fn) {
  switch (tokens) {
    case 64: fn(Config<64, 1, kGated>{}); return;
    case 128: fn(Config<128, 2, kGated>{}); return;
    case 192: fn(Config<192, 2, kGated>{}); return;
    default: fn(Config<256, 4, kGated>{}); return;
  }
}

template <bool kGated>
Cut choose_cut(const PackedWeight& w, int m, int num_sms) {
  Cut best;
  for (const int tokens : {64, 128, 192, 256}) {
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
  launch_overlapped(fp8_kernel<C>, dim3(static_cast<unsigned>(groups * args.cluster)),
                    Together{.cluster = args.cluster}, kThreads, C::kSharedBytes, launch.stream, args);
}

// Tiles have 256 tokens at most.
constexpr int kMaxPadding = 255;
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
