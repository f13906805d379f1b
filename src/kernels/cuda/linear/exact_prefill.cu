// Float32 products out of bf16 ones: an input is the sum of three bf16 numbers, its 24 bits cut into eights,
// and so is a float32 weight, so that the products of the parts are exact. Of a float32 weight's, those below
// 2^-24 of the whole are left out.
//
// Tensor cores cut their sums off where ordinary additions round, so they add up 64 of k only; these sums are
// then added in float32. A warpgroup reads its 64 rows of weights from where they lie, as the register
// operand A; four warps cut up the inputs of 64 tokens, operand B. A cluster splits k and adds up through
// distributed shared memory in a fixed order.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/linear/exact_prefill.h"
#include "kernels/cuda/linear/tiles.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kTokens = 64;  // of a tile
constexpr int kParts = 3;    // of an input
constexpr int kPartBytes = kTokens * kInputRowBytes;
constexpr int kCutters = 128;  // threads
constexpr int kQuads = kBlockK / 4;
constexpr int kTokenStep = kCutters / kQuads;
constexpr int kQuadsOfThread = kTokens / kTokenStep;
static_assert(kTokenStep == 8, "a thread's tokens share their place in the swizzle");

// A block of kGroups warpgroups that multiply, and one that cuts inputs up.
template <Format kFormatOf, int kGroupsOf>
struct Config {
  static constexpr Format kFormat = kFormatOf;
  static constexpr int kGroups = kGroupsOf;
  static constexpr int kWeightParts = kFormat == Format::f32 ? kParts : 1;
  static constexpr int kRows = kGroups * 64;
  static constexpr int kThreads = kGroups * 128 + kCutters;
  static constexpr int kBlocksOfSm = kGroups == 1 ? 2 : 1;
  static constexpr int kStartRegisters = 65536 / kBlocksOfSm / kThreads / 8 * 8;
  static constexpr int kCutterRegisters = kGroups == 4 ? 64 : 72;
  static constexpr int kRegisters = kGroups == 4 ? 104 : kGroups == 2 ? 216 : 184;
  static_assert(kGroups * kRegisters + kCutterRegisters <= (kGroups + 1) * kStartRegisters,
                "more registers than the block has would be waited for without end");
  // With four warpgroups others multiply while one waits for its weights.
  static constexpr bool kWeightsAhead = kGroups < 4;
  static constexpr int kStages = 4;
  static constexpr int kStageBytes = kParts * kPartBytes;
  // Sums of the block, [token][row], over the ring; padded that a warp's stores meet no bank twice.
  static constexpr int kSumStride = kRows + 4;
  static constexpr int kSharedBytes = std::max(kStages * kStageBytes, kSumStride* kTokens * 4) + 256;
};

struct ExactArgs {
  PackedWeight w;
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_stride;
  int m;
  int row_tiles;  // tiles of the grid
  int cluster;    // blocks that split k
  bool accumulate;
};

// Takes the upper eight bits off two floats and returns them as a pair of bf16.
__device__ __forceinline__ std::uint32_t take_pair(float& even, float& odd) {
  const std::uint32_t low = __float_as_uint(even);
  const std::uint32_t high = __float_as_uint(odd);
  even -= __uint_as_float(low & 0xFFFF0000U);
  odd -= __uint_as_float(high & 0xFFFF0000U);
  return __byte_perm(low, high, 0x7632);
}

// Cuts up the tile's inputs, block of k by block. While a quad is stored the one that follows it is on its
// way.
template <class C>
__device__ __forceinline__ void cut_inputs(const ExactArgs& args, const Ring& ring, int token0,
                                           const Blocks& blocks) {
  const int thread = static_cast<int>(threadIdx.x) % kCutters;
  const int quad = thread % kQuads;
  const int first = thread / kQuads;
  const int tokens = (args.m - token0 - first + kTokenStep - 1) / kTokenStep;  // of this thread's that exist
  const float* x = args.x + (token0 + first) * args.x_stride + quad * 4;
  const auto load = [&](int block, int i) {
    const int column = block * kBlockK;
    if (i >= tokens || column + quad * 4 >= args.w.k) return float4{};
    return __ldcs(reinterpret_cast<const float4*>(x + i * kTokenStep * args.x_stride + column));
  };
  float4 quads[kQuadsOfThread];
#pragma unroll
  for (int i = 0; i < kQuadsOfThread; ++i) quads[i] = load(blocks.begin, i);
  std::byte* out = ring.stages + first * kInputRowBytes + ((quad / 2) ^ first) * 16 + quad % 2 * 8;
  RingState state;
  for (int block = blocks.begin; block < blocks.end; ++block) {
    if (block - blocks.begin >= C::kStages) {
      mbarrier_wait(barrier_at(ring.drained, state.stage), state.parity ^ 1U);
    }
    std::byte* stage = out + state.stage * C::kStageBytes;
#pragma unroll
    for (int i = 0; i < kQuadsOfThread; ++i) {
      float4& v = quads[i];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint2 pairs = {take_pair(v.x, v.y), take_pair(v.z, v.w)};
        *reinterpret_cast<uint2*>(stage + part * kPartBytes + i * kTokenStep * kInputRowBytes) = pairs;
      }
      if (block + 1 < blocks.end) v = load(block + 1, i);
    }
    fence_async_proxy();
    __syncwarp();
    if (thread % 32 == 0) mbarrier_arrive(barrier_at(ring.filled, state.stage));
    state.advance(C::kStages);
  }
}

// A lane's operands of a block of k: [step][part].
template <class C>
using Operands = std::uint32_t[4][C::kWeightParts][4];

template <class C>
__device__ __forceinline__ void make_operands(const LaneCodes<C::kFormat>& codes, Operands<C>& a) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if constexpr (C::kFormat == Format::bf16) {
      decode_step(codes, step, RowOperands{}, a[step][0]);
    } else {
      float weights[8];
      decode_floats(codes, step, RowOperands{}, weights);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[step][part][i] = take_pair(weights[2 * i], weights[2 * i + 1]);
      }
    }
  }
}

// sums (+)= a block of k, smallest parts first.
template <class C>
__device__ __forceinline__ void multiply_block(const Operands<C>& a, std::uint32_t inputs,
                                               float (&sums)[kTokens / 2]) {
  int add = 0;
#pragma unroll
  for (int order = kParts - 1; order >= 0; --order) {
#pragma unroll
    for (int part = 0; part < C::kWeightParts; ++part) {
      if (part > order) continue;
      const std::uint64_t rows = k_major(inputs + (order - part) * kPartBytes);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma_bf16(sums, a[step][part], rows + static_cast<std::uint64_t>(2 * step), add);
        add = 1;
      }
    }
  }
}

// Sums of a warpgroup: its 64 rows times the tile's tokens.
template <class C>
__device__ __forceinline__ void multiply(const ExactArgs& args, const Ring& ring, int row_tile,
                                         const Blocks& blocks, float (&sums)[kTokens / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  // Rows past the last tile get products that nobody uses.
  const int tile = min(row_tile * (C::kRows / kTileRows) + warp, args.w.num_tiles - 1);
  const std::byte* weights = tile_address(args.w, 0, tile).codes;
  LaneCodes<C::kFormat> codes;
  const auto load = [&](int block) {
    if (block < blocks.end) {
      codes.load(weights + static_cast<std::int64_t>(block) * block_bytes(C::kFormat), lane);
    }
  };
  clear(sums);
  load(blocks.begin);
  RingState state;
  for (int block = blocks.begin; block < blocks.end; ++block) {
    Operands<C> a;
    make_operands<C>(codes, a);
    if constexpr (C::kWeightsAhead) load(block + 1);
    mbarrier_wait(barrier_at(ring.filled, state.stage), state.parity);
    float of_block[kTokens / 2];
    wgmma_fence();
    multiply_block<C>(a, shared_address(ring.stages + state.stage * C::kStageBytes), of_block);
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (float& sum : of_block) asm volatile("" : "+f"(sum)::"memory");
    if constexpr (!C::kWeightsAhead) load(block + 1);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(barrier_at(ring.drained, state.stage));
    state.advance(C::kStages);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sums[i] += of_block[i];
  }
}

template <class C>
__device__ __forceinline__ void store_sums(float* shared, const float (&sums)[kTokens / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* out = shared + static_cast<int>(threadIdx.x) / 32 * kTileRows + lane / 4;
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
    out[token * C::kSumStride + i / 2 % 2 * 8] = sums[i];
  }
}

// This block's share of the tokens, over all blocks of the cluster.
template <class C>
__device__ __forceinline__ void write_rows(const ExactArgs& args, const float* shared, int row0, int token0,
                                           int rank) {
  const int begin = kTokens * rank / args.cluster;
  const int end = min(kTokens * (rank + 1) / args.cluster, args.m - token0);
  constexpr int kRowQuads = C::kRows / 4;
  for (int i = begin * kRowQuads + static_cast<int>(threadIdx.x); i < end * kRowQuads; i += C::kThreads) {
    const int token = i / kRowQuads;
    const int row = i % kRowQuads * 4;
    const std::uint32_t at = shared_address(shared + token * C::kSumStride + row);
    float4 sum = load_remote4(remote_address(at, 0));
    for (int r = 1; r < args.cluster; ++r) {
      const float4 more = load_remote4(remote_address(at, static_cast<std::uint32_t>(r)));
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
    float* y = args.y + (token0 + token) * args.y_stride + row0 + row;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row0 + row + j < args.w.n) y[j] = args.accumulate ? y[j] + values[j] : values[j];
    }
  }
}

// grid: token tiles x row tiles x cluster.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksOfSm)
    exact_prefill_kernel(const __grid_constant__ ExactArgs args) {
  extern __shared__ __align__(1024) std::byte shared[];
  let_next_kernel_start();
  const Ring ring{.stages = shared,
                  .filled = shared_address(shared + C::kSharedBytes - 256),
                  .drained = shared_address(shared + C::kSharedBytes - 128)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      mbarrier_init(barrier_at(ring.filled, i), kCutters / 32);
      mbarrier_init(barrier_at(ring.drained, i), C::kGroups * 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int tile = static_cast<int>(blockIdx.x) / args.cluster;
  const int rank = static_cast<int>(blockIdx.x) % args.cluster;
  const int row_tile = tile % args.row_tiles;
  const int token0 = tile / args.row_tiles * kTokens;
  const Blocks blocks{.begin = args.w.num_blocks * rank / args.cluster,
                      .end = args.w.num_blocks * (rank + 1) / args.cluster};
  auto* sums_of_block = reinterpret_cast<float*>(shared);
  if (threadIdx.x >= C::kGroups * 128) {
    lower_registers<C::kCutterRegisters>();
    wait_for_earlier_kernels();
    cut_inputs<C>(args, ring, token0, blocks);
    barrier_sync<0, C::kThreads>();
  } else {
    raise_registers<C::kRegisters>();
    float sums[kTokens / 2];
    multiply<C>(args, ring, row_tile, blocks, sums);
    wait_for_earlier_kernels();
    barrier_sync<0, C::kThreads>();
    store_sums<C>(sums_of_block, sums);
  }
  cluster_sync();
  write_rows<C>(args, sums_of_block, row_tile * C::kRows, token0, rank);
  cluster_sync();  // others read this block's sums
}

template <class C>
void launch_config(ExactArgs args, const Launch& launch) {
  constexpr int kMinBlocksOfRank = 4;
  constexpr int kClusterCost = 2;  // of adding up, in blocks of k
  auto* kernel = exact_prefill_kernel<C>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  const auto fitting = [&](int size) {
    static FittingClusters clusters;
    return clusters.of(size, kernel, C::kThreads, C::kSharedBytes);
  };
  args.row_tiles = ceil_div(args.w.n, C::kRows);
  const int tiles = args.row_tiles * ceil_div(args.m, kTokens);
  args.cluster =
      choose_cluster(tiles, args.w.num_blocks, launch.num_sms, kMinBlocksOfRank, kClusterCost, fitting);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(tiles * args.cluster)),
                    Together{.cluster = args.cluster}, C::kThreads, C::kSharedBytes, launch.stream, args);
}

// Many warpgroups share what is cut up; few make more blocks.
template <Format kFormat, int kMostGroups>
void launch_format(const ExactArgs& args, const Launch& launch) {
  constexpr int kRows = kMostGroups * 64;
  const int blocks = ceil_div(args.w.n, kRows) * ceil_div(args.m, kTokens) * kMaxCluster;
  if (args.w.n > kRows / 2 && blocks >= launch.num_sms / 2) {
    launch_config<Config<kFormat, kMostGroups>>(args, launch);
  } else {
    launch_config<Config<kFormat, 1>>(args, launch);
  }
}

}  // namespace

bool takes_exact_prefill(const Product& p) {
  constexpr int kFewTokens = 48;
  return p.m > kFewTokens && (p.w.format == Format::bf16 || p.w.format == Format::f32) &&
         p.w.num_groups == 1 && p.w.permutation_offset == 0 && p.w.k % 4 == 0 && p.x_stride % 4 == 0 &&
         reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0;
}

void launch_exact_prefill_product(const Product& p, const Launch& launch) {
  const ExactArgs args{.w = p.w,
                       .x = p.x,
                       .x_stride = p.x_stride,
                       .y = p.y,
                       .y_stride = p.y_stride,
                       .m = p.m,
                       .row_tiles = 0,
                       .cluster = 1,
                       .accumulate = p.accumulate};
  if (p.w.format == Format::bf16) {
    launch_format<Format::bf16, 4>(args, launch);
  } else {
    launch_format<Format::f32, 2>(args, launch);
  }
}

}  // namespace nibble::kernels::cuda
