// Products for up to 8 tokens, at the speed weights can be read.
//
// A unit of work is one row tile over one slice of k. Blocks, one per SM, take equal runs of units; the eight
// warps of a block split the slice. Each warp streams its own part through a private ring of bulk copies
// (2 KiB and the scales beside it a stage, eight stages: 128 KiB in flight per SM), across units, so that the
// memory never waits for the sums. Weights are the M side of mma.m16n8k16, tokens its N side. Activations of
// the slice lie in shared memory as B fragments, rounded to bf16.
//
// k is sliced where whole rows would leave SMs idle or where the activations would not fit. Slices of a tile
// are then added by whichever block comes last, always in the same order.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/linear/decode.h"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/ptx.cuh"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kStages = 8;  // of a warp's ring
constexpr int kSumsOfWarp = kTileRows * kMaxDecodeTokens;
constexpr int kMaxInputBytes = 48 * 1024;
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
};

template <Format kFormat>
struct SharedMemory {
  static constexpr int kRingBytes = kWarps * kStages * Stage<kFormat>::kBytes;
  std::byte ring[kRingBytes];
  float sums[2][kWarps][kSumsOfWarp];
  std::uint64_t filled[kWarps][kStages];
  // and the inputs of a slice: [block][half][token][t] of 16 bytes
};

// Tiles finished so far of a sliced product; zero between launches.
constexpr int kMaxSlicedTiles = 16384;
__device__ unsigned finished_slices[kMaxSlicedTiles];

// A run of blocks of one tile.
struct Run {
  int begin;
  int end;
};

// The part of slice `slice` that is warp `part` of `parts`'s.
__device__ __forceinline__ Run warp_run(const DecodeArgs& args, int slice, int part, int parts) {
  const int begin = slice * args.slice_blocks;
  const int count = min(args.slice_blocks, args.w[0].num_blocks - begin);
  return {.begin = begin + count * part / parts, .end = begin + count * (part + 1) / parts};
}

// Streams one warp's share of the block's units into its ring.
template <Format kFormat>
class Producer {
 public:
  __device__ Producer(const DecodeArgs& args, const PackedWeight& w, std::byte* ring, std::uint64_t* filled,
                      int part, int parts, int first_unit, int last_unit)
      : args_(args),
        w_(w),
        ring_(ring),
        filled_(filled),
        part_(part),
        parts_(parts),
        unit_(first_unit),
        last_unit_(last_unit) {
    start_unit();
  }

  // Requests the next stage, if there is one. Called by the whole warp.
  __device__ __forceinline__ void issue(int lane) {
    if (unit_ >= last_unit_) return;
    using S = Stage<kFormat>;
    const int count = min(S::kBlocks, run_.end - run_.begin);
    if (lane == 0) {
      std::byte* stage = ring_ + stage_ * S::kBytes;
      std::uint64_t* barrier = filled_ + stage_;
      const auto code_bytes = static_cast<std::uint32_t>(count * block_bytes(kFormat));
      const std::byte* codes = address_.codes + static_cast<std::int64_t>(run_.begin) * block_bytes(kFormat);
      if constexpr (has_narrow_scales(kFormat)) {
        const auto scale_bytes = static_cast<std::uint32_t>(count * scale_block_bytes(kFormat));
        ptx::mbarrier_expect(barrier, code_bytes + scale_bytes);
        ptx::bulk_copy(stage + S::kCodeBytes,
                       address_.scales + static_cast<std::int64_t>(run_.begin) * scale_block_bytes(kFormat),
                       scale_bytes, barrier);
      } else if constexpr (has_wide_scales(kFormat)) {
        const int first = scale_group(w_, run_.begin * 2);
        const int groups = scale_group(w_, (run_.begin + count) * 2 - 1) - first + 1;
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
      ptx::bulk_copy(stage, codes, code_bytes, barrier);
    }
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    run_.begin += count;
    if (run_.begin == run_.end) {
      ++unit_;
      start_unit();
    }
  }

 private:
  // Skips units in which this warp has nothing to do.
  __device__ __forceinline__ void start_unit() {
    while (unit_ < last_unit_) {
      run_ = warp_run(args_, unit_ / w_.num_tiles, part_, parts_);
      if (run_.begin < run_.end) {
        address_ = tile_address(w_, 0, unit_ % w_.num_tiles);
        return;
      }
      ++unit_;
    }
  }

  const DecodeArgs& args_;
  const PackedWeight& w_;
  std::byte* ring_;
  std::uint64_t* filled_;
  int part_;
  int parts_;
  int unit_;
  int last_unit_;
  int stage_ = 0;
  Run run_{};
  TileAddress address_{};
};

// B fragments of a block of k: the lane's four steps.
struct BlockInputs {
  uint4 halves[2];
};

__device__ __forceinline__ BlockInputs load_inputs(const uint4* inputs, int block, int m, int lane) {
  BlockInputs b{};
  if (lane / 4 < m) {
    const uint4* at = inputs + (block * 2 * m + lane / 4) * 4 + lane % 4;
    b.halves[0] = at[0];
    b.halves[1] = at[4 * m];
  }
  return b;
}

template <Format kFormat>
__device__ __forceinline__ void multiply_step(const LaneCodes<kFormat>& codes, int step,
                                              const RowOperands& operands, const BlockInputs& b,
                                              float (&sums)[4]) {
  std::uint32_t a[4];
  decode_step(codes, step, operands, a);
  const uint4 half = b.halves[step / 2];
  if (step % 2 == 0) {
    ptx::mma_bf16(sums, a, half.x, half.y);
  } else {
    ptx::mma_bf16(sums, a, half.z, half.w);
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
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk) {
      const int at = (scale_group(w, block * 2 + chunk) - first_group) * kTileRows + lane / 4;
      RowOperands operands = no_zeros<kFormat>();
      if (S::kZeroBytes != 0 && w.zeros_offset != 0) {
        const auto* zeros = reinterpret_cast<const std::int8_t*>(stage + S::kCodeBytes + S::kScaleBytes);
        operands = {.low = zero_operand<kFormat>(zeros[at]), .high = zero_operand<kFormat>(zeros[at + 8])};
      }
      float part[4] = {};
      multiply_step(codes, 2 * chunk, operands, b, part);
      multiply_step(codes, 2 * chunk + 1, operands, b, part);
      const auto* scales = reinterpret_cast<const float*>(stage + S::kCodeBytes);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[chunk][j] = fmaf(scales[at + j / 2 * 8], part[j], sums[chunk][j]);
    }
  } else {
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply_step(codes, step, {}, b, sums[step % 2]);
  }
}

// Activations of a slice to shared memory, as load_inputs reads them.
__device__ __forceinline__ void round_inputs(const DecodeArgs& args, int slice, std::uint32_t* inputs) {
  const PackedWeight& w = args.w[0];
  const std::int32_t* permutation = permutation_of(w, 0);
  const int first = slice * args.slice_blocks;
  const int pairs = min(args.slice_blocks, w.num_blocks - first) * (kBlockK / 2);
  for (int token = 0; token < args.m; ++token) {
    const float* x = args.x + token * args.x_stride;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < pairs; i += kThreads) {
      float values[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int kk = first * kBlockK + 2 * i + j;
        if (permutation != nullptr) kk = permutation[kk];
        values[j] = kk >= 0 && kk < w.k ? x[kk] : 0.0F;
      }
      // Pair i: block i / 32, step i / 8 % 4, register i / 4 % 2, t = i % 4.
      const int half = i / 32 * 2 + i / 16 % 2;
      const int word = i / 8 % 2 * 2 + i / 4 % 2;
      inputs[((half * args.m + token) * 4 + i % 4) * 4 + word] = round_pair(values[0], values[1]);
    }
  }
}

// Writes results of a tile: sums[matrix][j] of the lane, complete.
template <int kMatrices>
__device__ __forceinline__ void write_tile(const DecodeArgs& args, int tile, int lane,
                                           const float (&sums)[kMatrices][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int row = lane / 4 + j / 2 * 8;
    const int token = lane % 4 * 2 + j % 2;
    if (token >= args.m || tile * kTileRows + row >= args.w[0].n) continue;
    float values[kMatrices];
#pragma unroll
    for (int i = 0; i < kMatrices; ++i) {
      values[i] = sums[i][j] * row_factor(args.w[i], tile_address(args.w[i], 0, tile).scales, row);
    }
    float* y = args.y + token * args.y_stride + tile * kTileRows + row;
    if constexpr (kMatrices == 2) {
      *y = values[0] / (1.0F + expf(-values[0])) * values[1];
    } else {
      *y = args.accumulate ? *y + values[0] : values[0];
    }
  }
}

// Adds what the warps of the block found for a unit and passes it on. Called by one warp.
template <int kMatrices>
__device__ __forceinline__ void finish_unit(const DecodeArgs& args, int unit, int lane,
                                            const float (&found)[kWarps][kSumsOfWarp]) {
  constexpr int kParts = kWarps / kMatrices;
  const int num_tiles = args.w[0].num_tiles;
  const int tile = unit % num_tiles;
  float sums[kMatrices][4];
#pragma unroll
  for (int i = 0; i < kMatrices; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float sum = found[i * kParts][j * 32 + lane];
#pragma unroll
      for (int part = 1; part < kParts; ++part) sum += found[i * kParts + part][j * 32 + lane];
      sums[i][j] = sum;
    }
  }
  if (args.slices > 1) {
    float* mine = args.partials + static_cast<std::int64_t>(unit) * kMatrices * kSumsOfWarp;
#pragma unroll
    for (int i = 0; i < kMatrices * 4; ++i) __stcg(mine + i * 32 + lane, sums[i / 4][i % 4]);
    __threadfence();
    __syncwarp();
    unsigned before = 0;
    if (lane == 0) before = atomicAdd(&finished_slices[tile], 1U);
    before = __shfl_sync(0xFFFFFFFFU, before, 0);
    if (before != static_cast<unsigned>(args.slices) - 1U) return;
    __threadfence();
    if (lane == 0) finished_slices[tile] = 0U;
#pragma unroll
    for (int i = 0; i < kMatrices * 4; ++i) sums[i / 4][i % 4] = 0.0F;
    for (int slice = 0; slice < args.slices; ++slice) {
      const float* from =
          args.partials + static_cast<std::int64_t>(slice * num_tiles + tile) * kMatrices * kSumsOfWarp;
#pragma unroll
      for (int i = 0; i < kMatrices * 4; ++i) sums[i / 4][i % 4] += __ldcg(from + i * 32 + lane);
    }
  }
  write_tile<kMatrices>(args, tile, lane, sums);
}

template <Format kFormat, int kMatrices>
__global__ void __launch_bounds__(kThreads, 1) decode_kernel(const __grid_constant__ DecodeArgs args) {
  constexpr int kParts = kWarps / kMatrices;
  extern __shared__ __align__(128) std::byte memory[];
  auto& shared = *reinterpret_cast<SharedMemory<kFormat>*>(memory);
  auto* inputs = reinterpret_cast<uint4*>(memory + sizeof(SharedMemory<kFormat>));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const PackedWeight& w = args.w[warp / kParts];
  const std::int64_t units = static_cast<std::int64_t>(args.slices) * w.num_tiles;
  const auto first_unit = static_cast<int>(units * blockIdx.x / gridDim.x);
  const auto last_unit = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x);

  std::byte* ring = shared.ring + warp * kStages * Stage<kFormat>::kBytes;
  if (lane == 0) {
    for (int i = 0; i < kStages; ++i) ptx::mbarrier_init(&shared.filled[warp][i], 1);
    ptx::mbarrier_init_fence();
  }
  __syncwarp();
  Producer<kFormat> producer(args, w, ring, shared.filled[warp], warp % kParts, kParts, first_unit,
                             last_unit);
  for (int i = 0; i < kStages; ++i) producer.issue(lane);
  // Weights are constant: only from here on is what earlier kernels wrote looked at.
  ptx::wait_for_earlier_kernels();
  ptx::let_next_kernel_start();

  int stage = 0;
  std::uint32_t parity = 0;
  int slice = -1;
  for (int unit = first_unit; unit < last_unit; ++unit) {
    if (unit / w.num_tiles != slice) {
      if (slice >= 0) __syncthreads();
      slice = unit / w.num_tiles;
      round_inputs(args, slice, reinterpret_cast<std::uint32_t*>(inputs));
      __syncthreads();
    }
    float sums[2][4] = {};
    Run run = warp_run(args, slice, warp % kParts, kParts);
    while (run.begin < run.end) {
      const int count = min(Stage<kFormat>::kBlocks, run.end - run.begin);
      const std::byte* from = ring + stage * Stage<kFormat>::kBytes;
      const int first_group = has_wide_scales(kFormat) ? scale_group(w, run.begin * 2) : 0;
      ptx::mbarrier_wait(&shared.filled[warp][stage], parity);
#pragma unroll
      for (int i = 0; i < Stage<kFormat>::kBlocks; ++i) {
        if (i >= count) break;
        const int block = run.begin + i;
        const BlockInputs b = load_inputs(inputs, block - slice * args.slice_blocks, args.m, lane);
        multiply_block<kFormat>(w, from, i, block, first_group, b, lane, sums);
      }
      __syncwarp();
      producer.issue(lane);
      run.begin += count;
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1U;
      }
    }
    auto& found = shared.sums[(unit - first_unit) % 2];
#pragma unroll
    for (int j = 0; j < 4; ++j) found[warp][j * 32 + lane] = sums[0][j] + sums[1][j];
    __syncthreads();
    if (warp == (unit - first_unit) % kWarps) finish_unit<kMatrices>(args, unit, lane, found);
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// How k is sliced: as few blocks of k as possible for the busiest SM.
struct Slicing {
  int slices;
  int slice_blocks;
};

Slicing choose_slicing(const PackedWeight& w, int m, int num_sms) {
  const int input_blocks = kMaxInputBytes / (128 * m);
  constexpr int kUnitCost = 2;  // of adding up and passing on, in blocks of k
  Slicing best{.slices = 0, .slice_blocks = 0};
  std::int64_t best_cost = 0;
  for (int slices = 1; slices <= std::max(kMaxSlices, ceil_div(w.num_blocks, input_blocks)); ++slices) {
    const int slice_blocks = ceil_div(w.num_blocks, slices);
    if (slice_blocks > input_blocks || ceil_div(w.num_blocks, slice_blocks) != slices) continue;
    if (slices > 1 && w.num_tiles > kMaxSlicedTiles && best.slices != 0) break;
    const std::int64_t units = static_cast<std::int64_t>(w.num_tiles) * slices;
    const std::int64_t rounds = (units + num_sms - 1) / num_sms;
    const std::int64_t cost = rounds * (slice_blocks + (slices > 1 ? 2 * kUnitCost : kUnitCost));
    if (best.slices == 0 || cost < best_cost) {
      best = {.slices = slices, .slice_blocks = slice_blocks};
      best_cost = cost;
    }
  }
  return best;
}

template <Format kFormat, int kMatrices>
void launch_kernel(const DecodeArgs& args, const Launch& launch) {
  const int units = args.slices * args.w[0].num_tiles;
  const std::size_t shared_bytes =
      sizeof(SharedMemory<kFormat>) + static_cast<std::size_t>(args.slice_blocks) * 128 * args.m;
  auto* kernel = decode_kernel<kFormat, kMatrices>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(sizeof(SharedMemory<kFormat>)) + kMaxInputBytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min(units, launch.num_sms)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launch.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace

bool can_decode(const PackedWeight& w, int m, int num_sms) {
  if (m < 1 || m > kMaxDecodeTokens || w.num_groups != 1) return false;
  return choose_slicing(w, m, num_sms).slices == 1 || w.num_tiles <= kMaxSlicedTiles;
}

std::size_t decode_scratch_bytes(const PackedWeight& w, int num_matrices, int m, int num_sms) {
  const int slices = choose_slicing(w, m, num_sms).slices;
  if (slices <= 1) return 0;
  return static_cast<std::size_t>(slices) * static_cast<std::size_t>(w.num_tiles) *
         static_cast<std::size_t>(num_matrices) * kSumsOfWarp * sizeof(float);
}

void launch_decode_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  const Slicing slicing = choose_slicing(p.w, p.m, launch.num_sms);
  const DecodeArgs args{.w = {p.w, up != nullptr ? *up : p.w},
                        .x = p.x,
                        .x_stride = p.x_stride,
                        .y = p.y,
                        .y_stride = p.y_stride,
                        .partials = reinterpret_cast<float*>(launch.scratch),
                        .m = p.m,
                        .slices = slicing.slices,
                        .slice_blocks = slicing.slice_blocks,
                        .accumulate = p.accumulate};
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (up != nullptr) {
      launch_kernel<kFormat, 2>(args, launch);
    } else {
      launch_kernel<kFormat, 1>(args, launch);
    }
  });
}

}  // namespace nibble::kernels::cuda
