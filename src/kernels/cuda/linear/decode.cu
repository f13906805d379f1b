// Products for up to 8 tokens, at the speed weights can be read.
//
// One block per SM takes a run of row tiles. Its warps form teams of equal size; a team takes its part of the
// run tile by tile, its warps each a part of k. A warp streams what it multiplies through a private ring of
// bulk copies (4 KiB of codes and the scales beside them a stage) and multiplies with mma.m16n8k16, weights
// on the M side and tokens on the N side. Where whole rows would leave SMs idle, a cluster of blocks shares a
// run, each block with a slice of k. Every warp leaves its sums in shared memory; when all tiles of the run
// are done, the block, or the cluster, adds them up in a fixed order.
//
// A block has an SM to itself: the scheduler puts two that fit together on the multiprocessor that is free
// first, and then half of them stay idle, in this kernel and in those behind it. A block fills its ring
// before it waits for what earlier kernels write. Grids are as large as the GPU even if some blocks have
// nothing to do.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/hopper/mma.cuh"
#include "kernels/cuda/linear/decode.h"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/e4m3_inputs.cuh"
#include "kernels/cuda/linear/inputs.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxSlices = 2;  // blocks of a cluster
// More than half of an SM, and room for the small kernels in between.
constexpr int kSharedBytes = 150 * 1024;
constexpr int kMinStages = 2;
constexpr int kMaxStages = 6;

struct DecodeArgs {
  PackedWeight w[2];  // gate and up of a gated product, both of a pair
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_stride;
  float* second_y;  // of a pair
  std::int64_t second_y_stride;
  int num_tiles;
  int first_tiles;  // of a pair's first product; else all
  int m;
  int slices;  // blocks of a cluster, each with slice_blocks of k
  int slice_blocks;
  int warps_k;         // warps of a team that share a matrix
  int run_tiles;       // of a cluster, at most
  int stages;          // of a warp's ring
  bool quads_aligned;  // rows of x start at multiples of 16 bytes
  bool fp8_inputs;
  bool accumulate;
};

// Blocks of k in a stage of the ring, and the bytes there.
template <Format kFormat>
struct Stage {
  static constexpr int kBlocks = std::max(1, 4096 / block_bytes(kFormat));
  static constexpr int kCodeBytes = kBlocks * block_bytes(kFormat);
  static constexpr int kMaxGroups = kBlocks * (kBlockK / kChunkK);
  static constexpr int kScaleBytes =
      has_wide_scales(kFormat) ? kMaxGroups * kTileRows * 4 : kBlocks * scale_block_bytes(kFormat);
  static constexpr int kZeroBytes =
      kFormat == Format::int4 || kFormat == Format::int8 ? kMaxGroups * kTileRows : 0;
  static constexpr int kBytes = kCodeBytes + kScaleBytes + kZeroBytes;
};

// Shared memory
//   filled   [warp][kMaxStages] barriers
//   ring     [warp][stage]
//   inputs   of the slice: [block][half][token][t] of 16 bytes
//   sums     [tile of the run][matrix][warp of the team][token][row]
//   factors  [tile of the run][matrix][row]
constexpr int kBarrierBytes = kWarps * kMaxStages * static_cast<int>(sizeof(std::uint64_t));
template <Format kFormat>
NIB_HOST_DEVICE constexpr int ring_bytes(int stages) {
  return kWarps * stages * Stage<kFormat>::kBytes;
}
NIB_HOST_DEVICE constexpr int input_bytes(int slice_blocks, int m) { return slice_blocks * m * 128; }
NIB_HOST_DEVICE constexpr int sum_floats(int matrices, int warps_k, int m) {  // of a tile
  return matrices * warps_k * m * kTileRows;
}

struct Run {
  int begin;
  int end;
};
// Part `part` of `parts` of [begin, begin + count).
__device__ __forceinline__ Run part_of(int begin, int count, int part, int parts) {
  return {.begin = begin + static_cast<int>(static_cast<std::int64_t>(count) * part / parts),
          .end = begin + static_cast<int>(static_cast<std::int64_t>(count) * (part + 1) / parts)};
}

// What one block does.
struct Work {
  int slice;
  Run blocks;  // of the slice
  Run tiles;
};
__device__ __forceinline__ Work work_of_block(const DecodeArgs& args) {
  const int slice = static_cast<int>(blockIdx.x) % args.slices;
  const int begin = slice * args.slice_blocks;
  return {.slice = slice,
          .blocks = {.begin = begin, .end = min(begin + args.slice_blocks, args.w[0].num_blocks)},
          .tiles = part_of(0, args.num_tiles, static_cast<int>(blockIdx.x) / args.slices,
                           static_cast<int>(gridDim.x) / args.slices)};
}

// A row tile of gate or up, or of a pair's products one after the other.
__device__ __forceinline__ TileAddress address_of(const DecodeArgs& args, int matrix, int tile) {
  const bool second = tile >= args.first_tiles;
  return tile_address(args.w[second ? 1 : matrix], 0, second ? tile - args.first_tiles : tile);
}

// Streams one warp's share into its ring: blocks `run` of every tile.
template <Format kFormat>
class Producer {
 public:
  using S = Stage<kFormat>;

  __device__ Producer(const DecodeArgs& args, int matrix, std::uint32_t ring, std::uint32_t filled,
                      std::uint32_t stages, const Run& run, const Run& tiles)
      : args_(args),
        w_(args.w[matrix]),
        matrix_(matrix),
        ring_(ring),
        filled_(filled),
        stages_(stages),
        run_(run),
        tile_(tiles.begin),
        last_tile_(run.begin < run.end ? tiles.end : tiles.begin),
        block_(run.begin),
        address_(address_of(args, matrix, tiles.begin)) {}

  // Requests the next stage, if there is one. By one lane.
  __device__ __forceinline__ void issue() {
    if (tile_ >= last_tile_) return;
    const int count = min(S::kBlocks, run_.end - block_);
    const std::uint32_t stage = ring_ + stage_ * S::kBytes;
    const std::uint32_t barrier = filled_ + stage_ * 8;
    const auto code_bytes = static_cast<std::uint32_t>(count * block_bytes(kFormat));
    if constexpr (has_narrow_scales(kFormat)) {
      const auto scale_bytes = static_cast<std::uint32_t>(count * scale_block_bytes(kFormat));
      mbarrier_expect(barrier, code_bytes + scale_bytes);
      bulk_copy(stage + S::kCodeBytes,
                address_.scales + static_cast<std::int64_t>(block_) * scale_block_bytes(kFormat), scale_bytes,
                barrier, kEvictFirst);
    } else if constexpr (has_wide_scales(kFormat)) {
      const int first = scale_group(w_, block_ * 2);
      const int groups = scale_group(w_, (block_ + count) * 2 - 1) - first + 1;
      const auto scale_bytes = static_cast<std::uint32_t>(groups * kTileRows * 4);
      const std::uint32_t zero_bytes =
          S::kZeroBytes != 0 && w_.zeros_offset != 0 ? static_cast<std::uint32_t>(groups * kTileRows) : 0U;
      mbarrier_expect(barrier, code_bytes + scale_bytes + zero_bytes);
      bulk_copy(stage + S::kCodeBytes, address_.scales + first * kTileRows * 4, scale_bytes, barrier,
                kEvictFirst);
      if (zero_bytes != 0) {
        bulk_copy(stage + S::kCodeBytes + S::kScaleBytes,
                  address_.scales + w_.zeros_offset + first * kTileRows, zero_bytes, barrier, kEvictFirst);
      }
    } else {
      mbarrier_expect(barrier, code_bytes);
    }
    bulk_copy(stage, address_.codes + static_cast<std::int64_t>(block_) * block_bytes(kFormat), code_bytes,
              barrier, kEvictFirst);
    stage_ = stage_ + 1 == stages_ ? 0 : stage_ + 1;
    block_ += count;
    if (block_ == run_.end) {
      block_ = run_.begin;
      address_ = address_of(args_, matrix_, ++tile_);
    }
  }

 private:
  const DecodeArgs& args_;
  const PackedWeight& w_;
  int matrix_;
  std::uint32_t ring_;  // shared addresses
  std::uint32_t filled_;
  std::uint32_t stages_;
  Run run_;
  int tile_;
  int last_tile_;
  int block_;
  std::uint32_t stage_ = 0;
  TileAddress address_;
};

template <Format kFormat>
__device__ __forceinline__ void multiply_step(const LaneCodes<kFormat>& codes, int step,
                                              const RowOperands& operands, const BlockInputs& b,
                                              float (&sums)[4]) {
  std::uint32_t a[4];
  decode_step(codes, step, operands, a);
  const uint4 half = b.halves[step / 2];
  const std::uint32_t b0 = step % 2 == 0 ? half.x : half.z;
  const std::uint32_t b1 = step % 2 == 0 ? half.y : half.w;
  mma_bf16(sums, a, b0, b1);
  if constexpr (splits_weights(kFormat)) {
    decode_step(codes, step, operands, a, true);
    mma_bf16(sums, a, b0, b1);
  }
}

// One block of a stage. `first_group` is the scale group the stage's wide scales begin with.
template <Format kFormat>
__device__ __forceinline__ void multiply_block(const PackedWeight& w, const std::byte* stage, int index,
                                               int block, int first_group, const BlockInputs& b, int lane,
                                               float (&sums)[2][4]) {
  using S = Stage<kFormat>;
  LaneCodes<kFormat> codes;
  codes.load(stage + index * block_bytes(kFormat), lane);
  if constexpr (has_narrow_scales(kFormat)) {
    LaneScales<kFormat> scales;
    scales.load(stage + S::kCodeBytes + index * scale_block_bytes(kFormat), lane);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      multiply_step(codes, step, scales.operands(step), b, sums[step % 2]);
    }
  } else if constexpr (has_wide_scales(kFormat)) {
    const auto* scales = reinterpret_cast<const float*>(stage + S::kCodeBytes);
    const auto* zeros = reinterpret_cast<const std::int8_t*>(stage + S::kCodeBytes + S::kScaleBytes);
    const bool whole = scales_whole_blocks(w);
    RowOperands operands = no_zeros<kFormat>();
    float scale[2];
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk) {
      if (chunk == 0 || !whole) {
        const int at = (scale_group(w, block * 2 + chunk) - first_group) * kTileRows + lane / 4;
        scale[0] = scales[at];
        scale[1] = scales[at + 8];
        if (S::kZeroBytes != 0 && w.zeros_offset != 0) {
          operands = {.low = zero_operand<kFormat>(zeros[at]), .high = zero_operand<kFormat>(zeros[at + 8])};
        }
      }
      float part[4] = {};
      multiply_step(codes, 2 * chunk, operands, b, part);
      multiply_step(codes, 2 * chunk + 1, operands, b, part);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[chunk][j] = fmaf(scale[j / 2], part[j], sums[chunk][j]);
    }
  } else {
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply_step(codes, step, {}, b, sums[step % 2]);
  }
}

// Activations of a slice to shared memory, as load_inputs reads them.
__device__ __forceinline__ void round_inputs(const DecodeArgs& args, const Run& blocks,
                                             std::uint32_t* inputs) {
  constexpr int kAtOnce = 4;  // loads in flight of a thread
  constexpr int kOctetsOfGroup = kE4m3Group / 8;
  const PackedWeight& w = args.w[0];
  const std::int32_t* permutation = permutation_of(w, 0);
  const int octets = (blocks.end - blocks.begin) * (kBlockK / 8);
  // Whole groups; what lies past the end of k is zero.
  const int row = (octets + kOctetsOfGroup - 1) / kOctetsOfGroup * kOctetsOfGroup;
  const int total = row * args.m;
  for (int begin = static_cast<int>(threadIdx.x); begin < total; begin += kAtOnce * kThreads) {
    InputOctet loaded[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kThreads;
      if (index >= total) break;
      loaded[i] = index % row < octets
                      ? load_octet(args.x + index / row * args.x_stride, permutation,
                                   blocks.begin * kBlockK + index % row * 8, w.k, args.quads_aligned)
                      : InputOctet{};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kThreads;
      if (index >= total) break;
      if (args.fp8_inputs) round_to_e4m3<kOctetsOfGroup>(loaded[i].v);
      if (index % row < octets) store_octet(inputs, index % row, index / row, args.m, loaded[i]);
    }
  }
}

// Adds up what the warps of all slices found and writes it; a block of a cluster takes every slices-th part.
template <int kMatrices>
__device__ __forceinline__ void finish(const DecodeArgs& args, const Work& work, const float* sums,
                                       const float* factors) {
  const int of_warp = args.m * kTileRows;
  const int outputs = (work.tiles.end - work.tiles.begin) * of_warp;
  for (int i = work.slice * kThreads + static_cast<int>(threadIdx.x); i < outputs;
       i += args.slices * kThreads) {
    const int tile = i / of_warp;
    const int of_tile = i % of_warp;
    const int row = of_tile % kTileRows;
    const float* mine = sums + tile * sum_floats(kMatrices, args.warps_k, args.m) + of_tile;
    float totals[kMatrices] = {};
    for (int slice = 0; slice < args.slices; ++slice) {
      const std::uint32_t from =
          args.slices == 1 ? shared_address(mine) : remote_address(shared_address(mine), slice);
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix) {
#pragma unroll 4
        for (int part = 0; part < args.warps_k; ++part) {
          const int at = (matrix * args.warps_k + part) * of_warp;
          totals[matrix] += load_remote(from + static_cast<std::uint32_t>(at) * sizeof(float));
        }
      }
    }
    const bool second = work.tiles.begin + tile >= args.first_tiles;
    const int output = (work.tiles.begin + tile - (second ? args.first_tiles : 0)) * kTileRows + row;
    if (output >= args.w[second ? 1 : 0].n) continue;
    const float value = totals[0] * factors[tile * kMatrices * kTileRows + row];
    float* y = (second ? args.second_y : args.y) + output +
               of_tile / kTileRows * (second ? args.second_y_stride : args.y_stride);
    if constexpr (kMatrices == 2) {
      *y = value / (1.0F + expf(-value)) * (totals[1] * factors[(tile * 2 + 1) * kTileRows + row]);
    } else {
      *y = args.accumulate ? *y + value : value;
    }
  }
}

// A warp's part of a tile, from its ring.
template <Format kFormat>
struct Consumer {
  using S = Stage<kFormat>;
  const std::byte* ring;
  std::uint32_t filled;
  const uint4* inputs;  // of the slice
  int first_block;      // of the slice
  int m;
  std::uint32_t stages;
  std::uint32_t stage = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void multiply_tile(const PackedWeight& w, const Run& run,
                                                Producer<kFormat>& producer, int lane, float (&sums)[2][4]) {
    for (int block = run.begin; block < run.end; block += S::kBlocks) {
      const std::byte* from = ring + stage * S::kBytes;
      const int first_group = has_wide_scales(kFormat) ? scale_group(w, block * 2) : 0;
      const int count = min(S::kBlocks, run.end - block);
      mbarrier_wait(filled + stage * 8, parity);
      const auto multiply = [&](int i) {
        const BlockInputs b = load_inputs(inputs, block + i - first_block, m, lane);
        multiply_block<kFormat>(w, from, i, block + i, first_group, b, lane, sums);
      };
      if (count == S::kBlocks) {
#pragma unroll
        for (int i = 0; i < S::kBlocks; ++i) multiply(i);
      } else {
        for (int i = 0; i < count; ++i) multiply(i);
      }
      __syncwarp();
      if (lane == 0) producer.issue();
      if (++stage == stages) {
        stage = 0;
        parity ^= 1U;
      }
    }
  }
};

// A third of the registers: small kernels that run beside this one must find room.
template <Format kFormat, int kMatrices>
__global__ void __launch_bounds__(kThreads, 3) decode_kernel(const __grid_constant__ DecodeArgs args) {
  let_next_kernel_start();
  extern __shared__ __align__(128) std::byte memory[];
  std::byte* rings = memory + kBarrierBytes;
  std::byte* after_ring = rings + ring_bytes<kFormat>(args.stages);
  auto* inputs = reinterpret_cast<uint4*>(after_ring);
  const int sums_of_tile = sum_floats(kMatrices, args.warps_k, args.m);
  auto* sums = reinterpret_cast<float*>(after_ring + input_bytes(args.slice_blocks, args.m));
  float* factors = sums + args.run_tiles * sums_of_tile;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int team_warps = args.warps_k * kMatrices;
  const int team = warp / team_warps;
  const Work work = work_of_block(args);
  const Run tiles = part_of(work.tiles.begin, work.tiles.end - work.tiles.begin, team, kWarps / team_warps);
  const int matrix = warp / args.warps_k % kMatrices;
  const Run run =
      part_of(work.blocks.begin, work.blocks.end - work.blocks.begin, warp % args.warps_k, args.warps_k);

  // Weights are constant: only after the first requests is what earlier kernels wrote looked at.
  std::byte* ring = rings + warp * args.stages * Stage<kFormat>::kBytes;
  const std::uint32_t filled = shared_address(memory) + warp * kMaxStages * 8;
  const auto stages = static_cast<std::uint32_t>(args.stages);
  Producer<kFormat> producer(args, matrix, shared_address(ring), filled, stages, run, tiles);
  if (lane == 0) {
    for (std::uint32_t i = 0; i < stages; ++i) mbarrier_init(filled + i * 8, 1);
    mbarrier_init_fence();
    for (std::uint32_t i = 0; i < stages; ++i) producer.issue();
  }
  const int num_factors = (work.tiles.end - work.tiles.begin) * kMatrices * kTileRows;
  for (int i = static_cast<int>(threadIdx.x); i < num_factors; i += kThreads) {
    const int tile = work.tiles.begin + i / (kMatrices * kTileRows);
    factors[i] =
        row_factor(args.w[0], address_of(args, i / kTileRows % kMatrices, tile).scales, i % kTileRows);
  }
  wait_for_earlier_kernels();
  if (work.tiles.begin < work.tiles.end)
    round_inputs(args, work.blocks, reinterpret_cast<std::uint32_t*>(inputs));
  __syncthreads();

  Consumer<kFormat> consumer{.ring = ring,
                             .filled = filled,
                             .inputs = inputs,
                             .first_block = work.blocks.begin,
                             .m = args.m,
                             .stages = stages};
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    float part[2][4] = {};
    consumer.multiply_tile(args.w[matrix], run, producer, lane, part);
    float* mine =
        sums + (tile - work.tiles.begin) * sums_of_tile + warp % team_warps * args.m * kTileRows + lane / 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int token = lane % 4 * 2 + j % 2;
      if (token < args.m) mine[token * kTileRows + j / 2 * 8] = part[0][j] + part[1][j];
    }
  }
  if (args.slices == 1) {
    __syncthreads();
  } else {
    cluster_sync();
  }
  finish<kMatrices>(args, work, sums, factors);
  if (args.slices > 1) cluster_sync();  // others may still read here
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// How the work is cut.
struct Cut {
  int slices = 0;  // 0: not possible
  int slice_blocks = 0;
  int warps_k = 0;
  int runs = 0;  // of tiles
  int run_tiles = 0;
  int stages = 0;
};

// The cut with the fewest blocks of k, one after another, for the busiest warp. stage_bytes: of all warps.
Cut choose_cut(const PackedWeight& w, int num_tiles, int num_matrices, int stage_bytes, int m, int num_sms) {
  // Of handing on a tile, of adding slices, and of a token's inputs, in blocks of k.
  constexpr double kTileCost = 0.5;
  constexpr double kSliceCost = 4.0;
  constexpr double kInputCost = 0.03;
  Cut best;
  double best_cost = 0.0;
  for (int slices = 1; slices <= kMaxSlices; slices *= 2) {
    // Whole groups of inputs that share a scale.
    constexpr int kBlocksOfGroup = kE4m3Group / kBlockK;
    const int slice_blocks = slices == 1
                                 ? w.num_blocks
                                 : ceil_div(ceil_div(w.num_blocks, slices), kBlocksOfGroup) * kBlocksOfGroup;
    if (slice_blocks * (slices - 1) >= w.num_blocks) continue;
    const int clusters = num_sms / slices;
    for (int warps_k = 1; warps_k * num_matrices <= kWarps; warps_k *= 2) {
      const int tile_bytes =
          (sum_floats(num_matrices, warps_k, m) + num_matrices * kTileRows) * static_cast<int>(sizeof(float));
      const int room = kSharedBytes - kBarrierBytes - input_bytes(slice_blocks, m);
      const int max_run = (room - kMinStages * stage_bytes) / tile_bytes;
      if (max_run < 1) continue;
      int rounds = 1;
      while (ceil_div(num_tiles, clusters * rounds) > max_run) ++rounds;
      const int run_tiles = ceil_div(num_tiles, clusters * rounds);
      const int teams = kWarps / (warps_k * num_matrices);
      const double cost =
          rounds * (ceil_div(run_tiles, teams) * (ceil_div(slice_blocks, warps_k) + kTileCost) +
                    (slices > 1 ? kSliceCost : 0.0) + kInputCost * m * slice_blocks);
      if (best.slices == 0 || cost < best_cost) {
        best_cost = cost;
        best = {.slices = slices,
                .slice_blocks = slice_blocks,
                .warps_k = warps_k,
                .runs = clusters * rounds,
                .run_tiles = run_tiles,
                .stages = std::min(kMaxStages, (room - run_tiles * tile_bytes) / stage_bytes)};
      }
    }
  }
  return best;
}

Cut cut_of(const PackedWeight& w, int num_tiles, int num_matrices, int m, int num_sms) {
  Cut cut;
  dispatch_format(w.format, [&](auto format) {
    cut = choose_cut(w, num_tiles, num_matrices, ring_bytes<decltype(format)::value>(1), m, num_sms);
  });
  return cut;
}

template <Format kFormat, int kMatrices>
void launch_kernel(const DecodeArgs& args, const Cut& cut, const Launch& launch) {
  auto* kernel = decode_kernel<kFormat, kMatrices>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  launch_overlapped(kernel, dim3(static_cast<unsigned>(cut.runs * cut.slices)),
                    Together{.cluster = cut.slices}, kThreads, kSharedBytes, launch.stream, args);
}

DecodeArgs make_args(const Product& p, const PackedWeight& other, int num_tiles, const Cut& cut) {
  return {.w = {p.w, other},
          .x = p.x,
          .x_stride = p.x_stride,
          .y = p.y,
          .y_stride = p.y_stride,
          .second_y = nullptr,
          .second_y_stride = 0,
          .num_tiles = num_tiles,
          .first_tiles = p.w.num_tiles,
          .m = p.m,
          .slices = cut.slices,
          .slice_blocks = cut.slice_blocks,
          .warps_k = cut.warps_k,
          .run_tiles = cut.run_tiles,
          .stages = cut.stages,
          .quads_aligned = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0,
          .fp8_inputs = p.fp8_inputs,
          .accumulate = p.accumulate};
}

void launch_cut(const DecodeArgs& args, int matrices, const Cut& cut, const Launch& launch) {
  dispatch_format(args.w[0].format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (matrices == 2) {
      launch_kernel<kFormat, 2>(args, cut, launch);
    } else {
      launch_kernel<kFormat, 1>(args, cut, launch);
    }
  });
}

}  // namespace

bool can_decode(const PackedWeight& w, int m, int num_sms) {
  return m >= 1 && m <= kMaxDecodeTokens && w.num_groups == 1 &&
         cut_of(w, w.num_tiles, 1, m, num_sms).slices != 0 &&
         cut_of(w, w.num_tiles, 2, m, num_sms).slices != 0;
}

bool can_pair(const PackedWeight& first, const PackedWeight& second) {
  return first.format == second.format && first.num_blocks == second.num_blocks && first.k == second.k &&
         first.permutation_offset == 0 && second.permutation_offset == 0 &&
         first.zeros_offset == second.zeros_offset && first.factors_offset == second.factors_offset &&
         first.chunks_per_scale == second.chunks_per_scale;
}

void launch_decode_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  const int matrices = up != nullptr ? 2 : 1;
  const Cut cut = cut_of(p.w, p.w.num_tiles, matrices, p.m, launch.num_sms);
  launch_cut(make_args(p, up != nullptr ? *up : p.w, p.w.num_tiles, cut), matrices, cut, launch);
}

void launch_decode_pair(const Product& first, const Product& second, const Launch& launch) {
  const int num_tiles = first.w.num_tiles + second.w.num_tiles;
  const Cut cut = cut_of(first.w, num_tiles, 1, first.m, launch.num_sms);
  DecodeArgs args = make_args(first, second.w, num_tiles, cut);
  args.second_y = second.y;
  args.second_y_stride = second.y_stride;
  launch_cut(args, 1, cut, launch);
}

}  // namespace nibble::kernels::cuda
