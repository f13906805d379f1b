// Products for up to 8 tokens, at the speed weights can be read.
//
// Blocks stay, one per SM. Each takes one slice of k and rounds the activations of that slice to bf16 in
// shared memory, as B fragments. Its sixteen consumer warps form teams of equal size, and a team takes a run
// of row tiles, its warps each a part of the slice. A warp streams its part of the tiles through a private
// ring of bulk copies (2 KiB of codes and the scales beside them a stage, four stages: 128 KiB in flight per
// SM) and multiplies with mma.m16n8k16, weights on the M side and tokens on the N side. Four more warps add
// up what a team's warps found and write it, so that nothing a result waits for makes the stream wait.
//
// k is sliced where whole rows would leave SMs idle or where the activations would not fit. A second
// kernel then adds the slices, always in the same order.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/linear/decode.h"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/inputs.cuh"
#include "kernels/cuda/linear/ptx.cuh"

namespace nibble::kernels::cuda {
namespace {

constexpr int kConsumers = 8;  // warps
constexpr int kFinishers = 2;
constexpr int kBlocksOfSm = 2;
constexpr int kThreads = (kConsumers + kFinishers) * 32;
constexpr int kMaxTeams = kConsumers;
constexpr int kSumsOfWarp = kTileRows * kMaxDecodeTokens;
constexpr int kMaxSlices = 32;

struct DecodeArgs {
  PackedWeight w[2];  // gate and up of a gated product
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_stride;
  float* partials;  // [slice][tile][matrix][kSumsOfWarp]
  int m;
  int slices;
  int slice_blocks;
  int warps_k;         // warps of a team that share a matrix
  bool quads_aligned;  // rows of x start at multiples of 16 bytes
  bool accumulate;
};

// Blocks of k in a stage of the ring, and the bytes there.
template <Format kFormat>
struct Stage {
  static constexpr int kBlocks = std::max(1, 2048 / block_bytes(kFormat));
  static constexpr int kCodeBytes = kBlocks * block_bytes(kFormat);
  static constexpr int kMaxGroups = kBlocks * (kBlockK / kChunkK);
  static constexpr int kScaleBytes =
      has_wide_scales(kFormat) ? kMaxGroups * kTileRows * 4 : kBlocks * scale_block_bytes(kFormat);
  static constexpr int kZeroBytes =
      kFormat == Format::int4 || kFormat == Format::int8 ? kMaxGroups * kTileRows : 0;
  static constexpr int kBytes = kCodeBytes + kScaleBytes + kZeroBytes;
  static constexpr int kStages = kCodeBytes > 2048 ? 2 : 4;  // of a warp's ring
};

template <Format kFormat>
struct SharedMemory {
  static constexpr int kStages = Stage<kFormat>::kStages;
  std::byte ring[kConsumers * kStages * Stage<kFormat>::kBytes];
  float sums[2][kConsumers][kSumsOfWarp];  // of two tiles in turn
  std::uint64_t filled[kConsumers][kStages];
  std::uint64_t ready[kMaxTeams][2];  // the team's sums of a tile
  std::uint64_t taken[kMaxTeams][2];
  // and the inputs of the slice: [block][half][token][t] of 16 bytes
};
constexpr int kMaxSharedBytes = 233472 / kBlocksOfSm - 1024;
template <Format kFormat>
constexpr int max_input_blocks(int m) {
  return (kMaxSharedBytes - static_cast<int>(sizeof(SharedMemory<kFormat>))) / (128 * m);
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

// What one team of a block does.
struct TeamWork {
  int slice;
  Run blocks;  // of the slice
  Run tiles;
};
__device__ __forceinline__ TeamWork team_work(const DecodeArgs& args, int team, int teams) {
  const int slice = static_cast<int>(blockIdx.x) % args.slices;
  const int blocks_of_slice = static_cast<int>(gridDim.x) / args.slices;
  const int begin = slice * args.slice_blocks;
  const int end = min(begin + args.slice_blocks, args.w[0].num_blocks);
  return {.slice = slice,
          .blocks = {.begin = begin, .end = end},
          .tiles = part_of(0, args.w[0].num_tiles, static_cast<int>(blockIdx.x) / args.slices * teams + team,
                           blocks_of_slice * teams)};
}

// Streams one warp's share into its ring: blocks `run` of every tile.
template <Format kFormat>
class Producer {
 public:
  using S = Stage<kFormat>;

  __device__ Producer(const PackedWeight& w, std::byte* ring, std::uint64_t* filled, const Run& run,
                      const Run& tiles)
      : w_(w),
        ring_(ring),
        filled_(filled),
        run_(run),
        tile_(tiles.begin),
        last_tile_(run.begin < run.end ? tiles.end : tiles.begin),
        block_(run.begin),
        address_(tile_address(w, 0, tiles.begin)) {}

  // Requests the next stage, if there is one. By one lane.
  __device__ __forceinline__ void issue() {
    if (tile_ >= last_tile_) return;
    const int count = min(S::kBlocks, run_.end - block_);
    std::byte* stage = ring_ + stage_ * S::kBytes;
    std::uint64_t* barrier = filled_ + stage_;
    const auto code_bytes = static_cast<std::uint32_t>(count * block_bytes(kFormat));
    if constexpr (has_narrow_scales(kFormat)) {
      const auto scale_bytes = static_cast<std::uint32_t>(count * scale_block_bytes(kFormat));
      ptx::mbarrier_expect(barrier, code_bytes + scale_bytes);
      ptx::bulk_copy(stage + S::kCodeBytes,
                     address_.scales + static_cast<std::int64_t>(block_) * scale_block_bytes(kFormat),
                     scale_bytes, barrier);
    } else if constexpr (has_wide_scales(kFormat)) {
      const int first = scale_group(w_, block_ * 2);
      const int groups = scale_group(w_, (block_ + count) * 2 - 1) - first + 1;
      const auto scale_bytes = static_cast<std::uint32_t>(groups * kTileRows * 4);
      const std::uint32_t zero_bytes =
          S::kZeroBytes != 0 && w_.zeros_offset != 0 ? static_cast<std::uint32_t>(groups * kTileRows) : 0U;
      ptx::mbarrier_expect(barrier, code_bytes + scale_bytes + zero_bytes);
      ptx::bulk_copy(stage + S::kCodeBytes, address_.scales + first * kTileRows * 4, scale_bytes, barrier);
      if (zero_bytes != 0) {
        ptx::bulk_copy(stage + S::kCodeBytes + S::kScaleBytes,
                       address_.scales + w_.zeros_offset + first * kTileRows, zero_bytes, barrier);
      }
    } else {
      ptx::mbarrier_expect(barrier, code_bytes);
    }
    ptx::bulk_copy(stage, address_.codes + static_cast<std::int64_t>(block_) * block_bytes(kFormat),
                   code_bytes, barrier);
    stage_ = stage_ + 1 == S::kStages ? 0 : stage_ + 1;
    block_ += count;
    if (block_ == run_.end) {
      block_ = run_.begin;
      ++tile_;
      address_.codes += w_.tile_code_bytes;
      address_.scales += w_.tile_scale_bytes;
    }
  }

 private:
  const PackedWeight& w_;
  std::byte* ring_;
  std::uint64_t* filled_;
  Run run_;
  int tile_;
  int last_tile_;
  int block_;
  int stage_ = 0;
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
  ptx::mma_bf16(sums, a, b0, b1);
  if constexpr (splits_weights(kFormat)) {
    decode_step(codes, step, operands, a, true);
    ptx::mma_bf16(sums, a, b0, b1);
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
__device__ __forceinline__ void round_inputs(const DecodeArgs& args, int slice, std::uint32_t* inputs) {
  constexpr int kAtOnce = 4;  // loads in flight of a thread
  const PackedWeight& w = args.w[0];
  const std::int32_t* permutation = permutation_of(w, 0);
  const int first = slice * args.slice_blocks;
  const int octets = min(args.slice_blocks, w.num_blocks - first) * (kBlockK / 8);
  const int total = octets * args.m;
  for (int begin = static_cast<int>(threadIdx.x); begin < total; begin += kAtOnce * kThreads) {
    InputOctet loaded[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kThreads;
      if (index >= total) break;
      loaded[i] = load_octet(args.x + index / octets * args.x_stride, permutation,
                             first * kBlockK + index % octets * 8, w.k, args.quads_aligned);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int index = begin + i * kThreads;
      if (index >= total) break;
      store_octet(inputs, index % octets, index / octets, args.m, loaded[i]);
    }
  }
}

// Of the lane's two rows in a tile, for each matrix.
template <int kMatrices>
struct Factors {
  float of[kMatrices][2];
};
template <int kMatrices>
__device__ __forceinline__ Factors<kMatrices> load_factors(const DecodeArgs& args, int tile, int lane) {
  Factors<kMatrices> factors;
#pragma unroll
  for (int i = 0; i < kMatrices; ++i) {
    const std::byte* scales = tile_address(args.w[i], 0, tile).scales;
    factors.of[i][0] = row_factor(args.w[i], scales, lane / 4);
    factors.of[i][1] = row_factor(args.w[i], scales, lane / 4 + 8);
  }
  return factors;
}

// Writes results of a tile: sums[matrix][j] of the lane, complete.
template <int kMatrices>
__device__ __forceinline__ void write_tile(const DecodeArgs& args, int tile, int lane,
                                           const Factors<kMatrices>& factors,
                                           const float (&sums)[kMatrices][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int row = tile * kTileRows + lane / 4 + j / 2 * 8;
    const int token = lane % 4 * 2 + j % 2;
    if (token >= args.m || row >= args.w[0].n) continue;
    float* y = args.y + token * args.y_stride + row;
    const float value = sums[0][j] * factors.of[0][j / 2];
    if constexpr (kMatrices == 2) {
      *y = value / (1.0F + expf(-value)) * (sums[1][j] * factors.of[1][j / 2]);
    } else {
      *y = args.accumulate ? *y + value : value;
    }
  }
}

template <int kMatrices>
__device__ __forceinline__ float* partials_of(const DecodeArgs& args, int slice, int tile, int lane) {
  const std::int64_t unit = static_cast<std::int64_t>(slice) * args.w[0].num_tiles + tile;
  return args.partials + unit * kMatrices * kSumsOfWarp + lane;
}

// Adds the slices of a tile, one warp each.
template <int kMatrices>
__global__ void __launch_bounds__(256) add_slices_kernel(const __grid_constant__ DecodeArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int tile = static_cast<int>(blockIdx.x) * 8 + static_cast<int>(threadIdx.x) / 32;
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  if (tile >= args.w[0].num_tiles) return;
  const Factors<kMatrices> factors = load_factors<kMatrices>(args, tile, lane);
  float sums[kMatrices][4] = {};
#pragma unroll 4
  for (int slice = 0; slice < args.slices; ++slice) {
    const float* from = partials_of<kMatrices>(args, slice, tile, lane);
#pragma unroll
    for (int j = 0; j < kMatrices * 4; ++j) sums[j / 4][j % 4] += from[j * 32];
  }
  write_tile<kMatrices>(args, tile, lane, factors, sums);
}

// A finisher: adds up what the warps of a team found for tiles first, first + step, ... of its run.
template <Format kFormat, int kMatrices>
__device__ __forceinline__ void finish_tiles(const DecodeArgs& args, SharedMemory<kFormat>& shared, int team,
                                             int teams, int first, int step, int lane) {
  const TeamWork work = team_work(args, team, teams);
  for (int i = first; work.tiles.begin + i < work.tiles.end; i += step) {
    const int tile = work.tiles.begin + i;
    const Factors<kMatrices> factors = load_factors<kMatrices>(args, tile, lane);
    float sums[kMatrices][4] = {};
    ptx::mbarrier_wait(&shared.ready[team][i % 2], static_cast<std::uint32_t>(i / 2 % 2));
    for (int part = 0; part < args.warps_k; ++part) {
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix) {
        const int warp = (team * kMatrices + matrix) * args.warps_k + part;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[matrix][j] += shared.sums[i % 2][warp][j * 32 + lane];
      }
    }
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.taken[team][i % 2]);
    if (args.slices > 1) {
      float* mine = partials_of<kMatrices>(args, work.slice, tile, lane);
#pragma unroll
      for (int j = 0; j < kMatrices * 4; ++j) mine[j * 32] = sums[j / 4][j % 4];
      continue;
    }
    write_tile<kMatrices>(args, tile, lane, factors, sums);
  }
}

// A warp's part of a tile, from its ring.
template <Format kFormat>
struct Consumer {
  using S = Stage<kFormat>;
  const std::byte* ring;
  std::uint64_t* filled;
  const uint4* inputs;  // of the slice
  int first_block;      // of the slice
  int m;
  int stage = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void multiply_tile(const PackedWeight& w, const Run& run,
                                                Producer<kFormat>& producer, int lane, float (&sums)[2][4]) {
    for (int block = run.begin; block < run.end; block += S::kBlocks) {
      const std::byte* from = ring + stage * S::kBytes;
      const int first_group = has_wide_scales(kFormat) ? scale_group(w, block * 2) : 0;
      const int count = min(S::kBlocks, run.end - block);
      ptx::mbarrier_wait(filled + stage, parity);
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
      if (++stage == S::kStages) {
        stage = 0;
        parity ^= 1U;
      }
    }
  }
};

template <Format kFormat, int kMatrices>
__global__ void __launch_bounds__(kThreads, kBlocksOfSm)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
  constexpr int kStages = Stage<kFormat>::kStages;
  extern __shared__ __align__(128) std::byte memory[];
  auto& shared = *reinterpret_cast<SharedMemory<kFormat>*>(memory);
  auto* inputs = reinterpret_cast<uint4*>(memory + sizeof(SharedMemory<kFormat>));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int team_warps = args.warps_k * kMatrices;
  const int teams = kConsumers / team_warps;
  const int team = warp / team_warps;
  if (threadIdx.x < static_cast<unsigned>(teams) * 2) {
    ptx::mbarrier_init(&shared.ready[threadIdx.x / 2][threadIdx.x % 2], static_cast<unsigned>(team_warps));
    ptx::mbarrier_init(&shared.taken[threadIdx.x / 2][threadIdx.x % 2], 1);
  }
  // Weights are constant: only after the first requests is what earlier kernels wrote looked at.
  const TeamWork work = team_work(args, team, teams);
  const PackedWeight& w = args.w[warp / args.warps_k % kMatrices];
  const Run run =
      part_of(work.blocks.begin, work.blocks.end - work.blocks.begin, warp % args.warps_k, args.warps_k);
  std::byte* ring = shared.ring + warp * kStages * Stage<kFormat>::kBytes;
  Producer<kFormat> producer(w, ring, shared.filled[warp % kConsumers], run, work.tiles);
  if (warp < kConsumers && lane == 0) {
    for (int i = 0; i < kStages; ++i) ptx::mbarrier_init(&shared.filled[warp][i], 1);
    ptx::mbarrier_init_fence();
    for (int i = 0; i < kStages; ++i) producer.issue();
  }
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();
  round_inputs(args, work.slice, reinterpret_cast<std::uint32_t*>(inputs));
  __syncthreads();

  if (warp >= kConsumers) {
    const int finisher = warp - kConsumers;
    if (teams >= kFinishers) {
      for (int of = finisher; of < teams; of += kFinishers) {
        finish_tiles<kFormat, kMatrices>(args, shared, of, teams, 0, 1, lane);
      }
    } else if (finisher < 2 * teams) {
      // Two at most share a team: each then sees every phase of the barriers of one of the two sums.
      finish_tiles<kFormat, kMatrices>(args, shared, finisher % teams, teams, finisher / teams, 2, lane);
    }
    return;
  }
  Consumer<kFormat> consumer{.ring = ring,
                             .filled = shared.filled[warp],
                             .inputs = inputs,
                             .first_block = work.blocks.begin,
                             .m = args.m};
  for (int i = 0; work.tiles.begin + i < work.tiles.end; ++i) {
    float sums[2][4] = {};
    consumer.multiply_tile(w, run, producer, lane, sums);
    if (i >= 2) ptx::mbarrier_wait(&shared.taken[team][i % 2], static_cast<std::uint32_t>((i / 2 - 1) % 2));
#pragma unroll
    for (int j = 0; j < 4; ++j) shared.sums[i % 2][warp][j * 32 + lane] = sums[0][j] + sums[1][j];
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.ready[team][i % 2]);
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// How the work is cut: the fewest blocks of k for the busiest warp.
struct Cut {
  int slices = 0;
  int slice_blocks = 0;
  int warps_k = 0;
  int blocks_of_slice = 0;  // of the grid
};

Cut choose_cut(const PackedWeight& w, int num_matrices, int input_blocks, int num_sms) {
  // Of handing on a tile and of adding slices, in blocks of k.
  constexpr double kTileCost = 0.5;
  constexpr double kSliceCost = 10.0;
  Cut best;
  double best_cost = 0.0;
  const int max_slices = std::max(kMaxSlices, ceil_div(w.num_blocks, input_blocks));
  for (int slices = 1; slices <= std::min(max_slices, kBlocksOfSm * num_sms); ++slices) {
    const int slice_blocks = ceil_div(w.num_blocks, slices);
    if (slice_blocks > input_blocks || ceil_div(w.num_blocks, slice_blocks) != slices) continue;
    for (int warps_k = 1; warps_k * num_matrices <= kConsumers; warps_k *= 2) {
      const int teams = kConsumers / (warps_k * num_matrices);
      for (int of_sm = 1; of_sm <= kBlocksOfSm; ++of_sm) {
        const int blocks_of_slice = num_sms * of_sm / slices;
        if (blocks_of_slice == 0) continue;
        const double work_of_tile = ceil_div(slice_blocks, warps_k) + kTileCost;
        const double cost = of_sm * ceil_div(w.num_tiles, teams * blocks_of_slice) * work_of_tile +
                            (slices > 1 ? kSliceCost : 0.0);
        if (best.slices == 0 || cost < best_cost) {
          best = {.slices = slices,
                  .slice_blocks = slice_blocks,
                  .warps_k = warps_k,
                  .blocks_of_slice = blocks_of_slice};
          best_cost = cost;
        }
      }
    }
  }
  return best;
}

Cut cut_of(const PackedWeight& w, int num_matrices, int m, int num_sms) {
  Cut cut;
  dispatch_format(w.format, [&](auto format) {
    cut = choose_cut(w, num_matrices, max_input_blocks<decltype(format)::value>(m), num_sms);
  });
  return cut;
}

template <Format kFormat, int kMatrices>
void launch_kernel(const DecodeArgs& args, const Cut& cut, const Launch& launch) {
  constexpr int kFixedBytes = sizeof(SharedMemory<kFormat>);
  auto* kernel = decode_kernel<kFormat, kMatrices>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  const int teams = kConsumers / (args.warps_k * kMatrices);
  const int blocks_of_slice = std::min(cut.blocks_of_slice, ceil_div(args.w[0].num_tiles, teams));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(args.slices * blocks_of_slice));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(kFixedBytes + args.slice_blocks * 128 * args.m);
  config.stream = launch.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, args);
  if (args.slices == 1) return;
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(args.w[0].num_tiles, 8)));
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = 0;
  cudaLaunchKernelEx(&config, add_slices_kernel<kMatrices>, args);
}

}  // namespace

bool can_decode(const PackedWeight& w, int m, int num_sms) {
  return m >= 1 && m <= kMaxDecodeTokens && w.num_groups == 1 && cut_of(w, 1, m, num_sms).slices != 0 &&
         cut_of(w, 2, m, num_sms).slices != 0;
}

std::size_t decode_scratch_bytes(const PackedWeight& w, int num_matrices, int m, int num_sms) {
  const int slices = cut_of(w, num_matrices, m, num_sms).slices;
  if (slices <= 1) return 0;
  return static_cast<std::size_t>(slices) * static_cast<std::size_t>(w.num_tiles) *
         static_cast<std::size_t>(num_matrices) * kSumsOfWarp * sizeof(float);
}

void launch_decode_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  const Cut cut = cut_of(p.w, up != nullptr ? 2 : 1, p.m, launch.num_sms);
  const DecodeArgs args{
      .w = {p.w, up != nullptr ? *up : p.w},
      .x = p.x,
      .x_stride = p.x_stride,
      .y = p.y,
      .y_stride = p.y_stride,
      .partials = reinterpret_cast<float*>(launch.scratch),
      .m = p.m,
      .slices = cut.slices,
      .slice_blocks = cut.slice_blocks,
      .warps_k = cut.warps_k,
      .quads_aligned = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0,
      .accumulate = p.accumulate};
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (up != nullptr) {
      launch_kernel<kFormat, 2>(args, cut, launch);
    } else {
      launch_kernel<kFormat, 1>(args, cut, launch);
    }
  });
}

}  // namespace nibble::kernels::cuda
