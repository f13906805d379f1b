// Attention of one sequence's chunk on tensor cores, for keys of 128 + 64 and values of 128.
//
// Every 128 query rows of a head read the same keys and values, so a first kernel rounds these to bf16 and
// lays tiles of 128 entries out as wgmma reads them: a tile is then three bulk copies. A block takes 128 rows
// of one head through the entries they see. One thread copies; two warpgroups take 64 rows each, and while
// one turns scores into probabilities the tensor cores work on the other's products and on its own product
// of the tile before.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/panels.cuh"
#include "kernels/cuda/check.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kNope = 128;
constexpr int kRope = 64;
constexpr int kKey = kNope + kRope;
constexpr int kValue = 128;
constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kRows = kGroups * 64;
constexpr int kTile = 128;
constexpr int kStages = 2;
constexpr int kThreads = kGroups * 128 + 128;
constexpr int kPackThreads = 256;

// Packed, a tile of a head is its keys without the rope part, then its values; the rope parts of the tiles,
// which heads share, lie before all heads.
constexpr int kTilePanelBytes = kTile * 128;
constexpr int kNopeBytes = kNope / kPanelColumns * kTilePanelBytes;
constexpr int kRopeBytes = kRope / kPanelColumns * kTilePanelBytes;
constexpr int kValueBytes = kValue / kPanelColumns * kTilePanelBytes;
constexpr int kPackedBytes = kNopeBytes + kValueBytes;

// Heads packed at a time take so much at most, unless one alone takes more.
constexpr std::int64_t kMaxPackedBytes = std::int64_t{128} << 20;
// What heads worked on at the same time may take of the L2 cache.
constexpr std::int64_t kCachedBytes = std::int64_t{8} << 20;

// Some heads of a launch, counted from head 0 of `base`.
struct Section {
  MhaLaunch base;
  std::byte* rope;    // [tiles][kRopeBytes]
  std::byte* packed;  // [heads][tiles][kPackedBytes]
  std::int32_t num_tiles;
  std::int32_t row_tiles;
  std::int32_t heads_together;
};

// Entries [begin, begin + kTile) of a matrix of 8 * kChunks columns; zeros past the last entry.
template <int kChunks>
__device__ __forceinline__ void pack_tile(const float* from, std::int64_t stride, std::int64_t begin,
                                          std::int64_t length, std::byte* to) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kChunks; i += kPackThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    uint4 packed{0, 0, 0, 0};
    if (begin + row < length) {
      const auto* values = reinterpret_cast<const float4*>(from + (begin + row) * stride + chunk * 8);
      const float4 a = __ldg(values);
      const float4 b = __ldg(values + 1);
      packed = {bf16_pair(a.x, a.y), bf16_pair(a.z, a.w), bf16_pair(b.x, b.y), bf16_pair(b.z, b.w)};
    }
    *reinterpret_cast<uint4*>(to + chunk / 8 * kTilePanelBytes + panel_offset(row, chunk % 8)) = packed;
  }
}

// grid: x = tiles, y = heads and one more for the rope part.
__global__ void __launch_bounds__(kPackThreads) mha_pack_kernel(const __grid_constant__ Section section) {
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const MhaLaunch& launch = section.base;
  const std::int64_t tile = blockIdx.x;
  const std::int64_t head = blockIdx.y;
  if (head == launch.num_heads) {
    pack_tile<kRope / 8>(launch.k_pe.data, launch.k_pe.stride, tile * kTile, launch.length,
                         section.rope + tile * kRopeBytes);
    return;
  }
  std::byte* packed = section.packed + (head * section.num_tiles + tile) * kPackedBytes;
  pack_tile<kNope / 8>(launch.k_nope.data + head * launch.k_nope.head_stride, launch.k_nope.row_stride,
                       tile * kTile, launch.length, packed);
  pack_tile<kValue / 8>(launch.v.data + head * launch.v.head_stride, launch.v.row_stride, tile * kTile,
                        launch.length, packed + kNopeBytes);
}

struct Shared {
  std::uint8_t q[kGroups][kKey / kPanelColumns * kPanelBytes];
  std::uint8_t keys[kStages][kNopeBytes + kRopeBytes];
  std::uint8_t values[kStages][kValueBytes];
  std::uint64_t keys_filled[kStages];
  std::uint64_t keys_drained[kStages];
  std::uint64_t values_filled[kStages];
  std::uint64_t values_drained[kStages];
};
constexpr int kSharedBytes = static_cast<int>(sizeof(Shared)) + 1024;

// The part of a block: rows [row, row + kRows) of a head.
struct Work {
  std::int32_t head;
  std::int64_t row;
  std::int32_t tiles;  // that its rows see
};

// Heads go in batches whose tiles the L2 cache holds; in a batch the rows that see most come first.
__device__ __forceinline__ Work work_of_block(const Section& section) {
  const MhaLaunch& launch = section.base;
  const int index = static_cast<int>(blockIdx.x);
  const int of_batch = section.heads_together * section.row_tiles;
  const int first_head = index / of_batch * section.heads_together;
  const int heads = min(section.heads_together, launch.num_heads - first_head);
  const std::int64_t row =
      static_cast<std::int64_t>(section.row_tiles - 1 - index % of_batch / heads) * kRows;
  const std::int64_t entries = min(launch.length, launch.length - launch.num_rows + row + kRows);
  return {.head = first_head + index % of_batch % heads,
          .row = row,
          .tiles = static_cast<std::int32_t>((entries + kTile - 1) / kTile)};
}

__device__ __forceinline__ std::uint32_t parity_of(int tile) {
  return static_cast<std::uint32_t>(tile / kStages) & 1U;
}

__device__ void copy_tiles(const Section& section, const Work& work, Shared& shared) {
  const std::byte* packed =
      section.packed + static_cast<std::int64_t>(work.head) * section.num_tiles * kPackedBytes;
  const auto copy_keys = [&](int tile) {
    const int stage = tile % kStages;
    if (tile >= kStages) {
      mbarrier_wait(shared_address(&shared.keys_drained[stage]), parity_of(tile) ^ 1U);
    }
    const std::uint32_t filled = shared_address(&shared.keys_filled[stage]);
    mbarrier_expect(filled, kNopeBytes + kRopeBytes);
    bulk_copy(shared_address(shared.keys[stage]), packed + static_cast<std::int64_t>(tile) * kPackedBytes,
              kNopeBytes, filled);
    bulk_copy(shared_address(shared.keys[stage] + kNopeBytes),
              section.rope + static_cast<std::int64_t>(tile) * kRopeBytes, kRopeBytes, filled);
  };
  const auto copy_values = [&](int tile) {
    const int stage = tile % kStages;
    if (tile >= kStages) {
      mbarrier_wait(shared_address(&shared.values_drained[stage]), parity_of(tile) ^ 1U);
    }
    const std::uint32_t filled = shared_address(&shared.values_filled[stage]);
    mbarrier_expect(filled, kValueBytes);
    bulk_copy(shared_address(shared.values[stage]),
              packed + static_cast<std::int64_t>(tile) * kPackedBytes + kNopeBytes, kValueBytes, filled);
  };
  copy_keys(0);
  for (int tile = 1; tile < work.tiles; ++tile) {
    copy_keys(tile);
    copy_values(tile - 1);
  }
  copy_values(work.tiles - 1);
}

// Accumulators of products under way are not to be moved across this.
template <int kCount>
__device__ __forceinline__ void pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// A warpgroup with its 64 rows. Lane 4g + t has rows g and g + 8 of its warp's 16.
template <int kGroup>
class Group {
 public:
  __device__ __forceinline__ Group(const Section& section, const Work& work, Shared& shared)
      : launch_(section.base), work_(work), shared_(shared) {
    scale_ = launch_.scale * 1.44269504F;  // log2(e)
    row_ = work.row + kGroup * 64;
  }

  __device__ __forceinline__ void run() {
    if (kGroup == 1 && work_.tiles > 1) arrive_for_other();  // the first to go is group 0
    load_queries();
#pragma unroll
    for (int i = 0; i < kValue / 2; ++i) o_[i] = 0.0F;
    wait_filled(shared_.keys_filled, 0);
    multiply_keys(0);
    wgmma_wait<0>();
    pin(s_);
    drain(shared_.keys_drained, 0);
    float factors[2];
    soften(0, factors);
    round_probabilities();
    for (int tile = 1; tile < work_.tiles; ++tile) {
      wait_filled(shared_.keys_filled, tile);
      wait_for_other();
      pin(s_);
      pin(o_);
      multiply_keys(tile);
      wait_filled(shared_.values_filled, tile - 1);
      multiply_values(tile - 1);
      if (kGroup == 0 || tile + 1 < work_.tiles) arrive_for_other();
      wgmma_wait<1>();
      pin(s_);
      drain(shared_.keys_drained, tile);
      soften(tile, factors);
      wgmma_wait<0>();
      pin(o_);
      drain(shared_.values_drained, tile - 1);
#pragma unroll
      for (int i = 0; i < kValue / 2; ++i) o_[i] *= factors[i / 2 % 2];
      round_probabilities();
    }
    wait_filled(shared_.values_filled, work_.tiles - 1);
    pin(o_);
    multiply_values(work_.tiles - 1);
    wgmma_wait<0>();
    pin(o_);
    store();
  }

 private:
  // The groups' products take turns.
  static constexpr int kTurn = 1;
  static constexpr int kQueries = kTurn + kGroups;
  __device__ __forceinline__ void wait_for_other() { barrier_sync<kTurn + kGroup, kGroups * 128>(); }
  __device__ __forceinline__ void arrive_for_other() { barrier_arrive<kTurn + 1 - kGroup, kGroups * 128>(); }

  __device__ __forceinline__ void wait_filled(std::uint64_t (&filled)[kStages], int tile) {
    mbarrier_wait(shared_address(&filled[tile % kStages]), parity_of(tile));
  }
  __device__ __forceinline__ void drain(std::uint64_t (&drained)[kStages], int tile) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(shared_address(&drained[tile % kStages]));
  }

  // Rows past the last repeat it.
  __device__ __forceinline__ void load_queries() {
    constexpr int kChunks = kKey / 8;
#pragma unroll 6
    for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * kChunks; i += 128) {
      const int row = i / kChunks;
      const int chunk = i % kChunks;
      const std::int64_t at = min(row_ + row, launch_.num_rows - 1);
      const Heads& from = chunk < kNope / 8 ? launch_.q_nope : launch_.q_pe;
      const auto* q =
          reinterpret_cast<const float4*>(from.data + at * from.row_stride + work_.head * from.head_stride +
                                          (chunk < kNope / 8 ? chunk : chunk - kNope / 8) * 8);
      const float4 a = __ldg(q);
      const float4 b = __ldg(q + 1);
      *reinterpret_cast<uint4*>(shared_.q[kGroup] + chunk / 8 * kPanelBytes +
                                panel_offset(row, chunk % 8)) = {bf16_pair(a.x, a.y), bf16_pair(a.z, a.w),
                                                                 bf16_pair(b.x, b.y), bf16_pair(b.z, b.w)};
    }
    fence_async_proxy();
    barrier_sync<kQueries + kGroup, 128>();
  }

  __device__ __forceinline__ void multiply_keys(int tile) {
    const std::uint64_t q = k_major(shared_address(shared_.q[kGroup]));
    const std::uint64_t keys = k_major(shared_address(shared_.keys[tile % kStages]));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kKey / 16; ++step) {
      const int panel = step / 4;
      wgmma_bf16(s_, q + static_cast<std::uint64_t>(panel * (kPanelBytes / 16) + step % 4 * kStepColumns),
                 keys + static_cast<std::uint64_t>(panel * (kTilePanelBytes / 16) + step % 4 * kStepColumns),
                 step > 0 ? 1 : 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void multiply_values(int tile) {
    const std::uint64_t values = mn_major(shared_address(shared_.values[tile % kStages]), kTilePanelBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      wgmma_bf16_mn(o_, p_[step], values + static_cast<std::uint64_t>(step * kStepRows), 1);
    }
    wgmma_commit();
  }

  // Entries after a row's own count for nothing.
  __device__ __forceinline__ void mask(int tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t row = row_ + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4;
    const auto last = static_cast<int>(launch_.length - launch_.num_rows + row -
                                       static_cast<std::int64_t>(tile) * kTile - lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
      if (i / 4 * 8 + i % 2 > last + i / 2 % 2 * 8) s_[i] = -INFINITY;
    }
  }

  // Scores to probabilities, relative to the new maximum; `factors` turn what is there to it.
  __device__ __forceinline__ void soften(int tile, float (&factors)[2]) {
    if (static_cast<std::int64_t>(tile + 1) * kTile > launch_.length - launch_.num_rows + row_ + 1)
      mask(tile);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = fmaxf(s_[2 * row], s_[2 * row + 1]);
#pragma unroll
      for (int j = 1; j < kTile / 8; ++j)
        top = fmaxf(top, fmaxf(s_[4 * j + 2 * row], s_[4 * j + 2 * row + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 2));
      const float new_top = fmaxf(top_[row], top * scale_);
      factors[row] = exp2_approx(top_[row] - new_top);
      top_[row] = new_top;
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j) {
        float& a = s_[4 * j + 2 * row];
        float& b = s_[4 * j + 2 * row + 1];
        a = exp2_approx(fmaf(a, scale_, -new_top));
        b = exp2_approx(fmaf(b, scale_, -new_top));
        sum += a + b;
      }
      sum_[row] = sum_[row] * factors[row] + sum;
    }
  }

  // To the A fragments of the entries' k16 steps.
  __device__ __forceinline__ void round_probabilities() {
#pragma unroll
    for (int i = 0; i < kTile / 4; ++i) p_[i / 4][i % 4] = bf16_pair(s_[2 * i], s_[2 * i + 1]);
  }

  __device__ __forceinline__ void store() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = sum_[i];
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
      const std::int64_t row = row_ + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4 + i * 8;
      if (row >= launch_.num_rows) continue;
      const float factor = 1.0F / sum;
      float* o =
          launch_.o.data + row * launch_.o.row_stride + work_.head * launch_.o.head_stride + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kValue / 8; ++j) {
        *reinterpret_cast<float2*>(o + j * 8) = {o_[4 * j + 2 * i] * factor, o_[4 * j + 2 * i + 1] * factor};
      }
    }
  }

  const MhaLaunch& launch_;
  const Work& work_;
  Shared& shared_;
  float scale_;
  std::int64_t row_;  // first of the group's
  float s_[kTile / 2];
  std::uint32_t p_[kTile / 16][4];
  float o_[kValue / 2];
  float top_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {};
};

__global__ void __launch_bounds__(kThreads, 1) mha_fast_kernel(const __grid_constant__ Section section) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared*>(raw + (1024 - shared_address(raw) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(shared_address(&shared.keys_filled[i]), 1);
      mbarrier_init(shared_address(&shared.values_filled[i]), 1);
      mbarrier_init(shared_address(&shared.keys_drained[i]), kGroups * 4);
      mbarrier_init(shared_address(&shared.values_drained[i]), kGroups * 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const Work work = work_of_block(section);
  // Registers are dealt out by role: 128 * (24 + 2 * 240) of the block's.
  if (threadIdx.x >= kGroups * 128) {
    lower_registers<24>();
    if (threadIdx.x == kGroups * 128) copy_tiles(section, work, shared);
  } else if (threadIdx.x < 128) {
    raise_registers<240>();
    Group<0>(section, work, shared).run();
  } else {
    raise_registers<240>();
    Group<1>(section, work, shared).run();
  }
}

bool aligned(const Heads& t) {
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.row_stride % 4 == 0 &&
         t.head_stride % 4 == 0;
}

std::int64_t tiles_of(std::int64_t entries) { return (entries + kTile - 1) / kTile; }

std::int64_t heads_of_section(const MhaLaunch& launch) {
  const std::int64_t of_head = tiles_of(launch.length) * kPackedBytes;
  return std::clamp<std::int64_t>(kMaxPackedBytes / of_head, 1, launch.num_heads);
}

MhaLaunch from_head(MhaLaunch launch, std::int64_t head, std::int64_t num_heads) {
  for (Heads* t : {&launch.q_nope, &launch.q_pe, &launch.k_nope, &launch.v, &launch.o}) {
    t->data += head * t->head_stride;
  }
  launch.num_heads = static_cast<std::int32_t>(num_heads);
  return launch;
}

void launch_section(cudaStream_t stream, Section section) {
  const MhaLaunch& launch = section.base;
  section.row_tiles = static_cast<std::int32_t>((launch.num_rows + kRows - 1) / kRows);
  const std::int64_t of_head = std::int64_t{section.num_tiles} * kPackedBytes;
  section.heads_together =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(kCachedBytes / of_head, 1, launch.num_heads));
  launch_overlapped(
      mha_pack_kernel,
      dim3(static_cast<unsigned>(section.num_tiles), static_cast<unsigned>(launch.num_heads + 1)),
      kPackThreads, 0, stream, section);
  check_launch("mha's keys and values");
  launch_overlapped(mha_fast_kernel,
                    dim3(static_cast<unsigned>(section.row_tiles) * static_cast<unsigned>(launch.num_heads)),
                    kThreads, kSharedBytes, stream, section);
  check_launch("mha");
}

}  // namespace

bool mha_fast_supports(const MhaLaunch& launch) {
  return launch.d_nope == kNope && launch.d_rope == kRope && launch.d_v == kValue && launch.scale > 0.0F &&
         aligned(launch.q_nope) && aligned(launch.q_pe) && aligned(launch.k_nope) && aligned(launch.v) &&
         aligned(launch.o) && reinterpret_cast<std::uintptr_t>(launch.k_pe.data) % 16 == 0 &&
         launch.k_pe.stride % 4 == 0;
}

std::size_t mha_fast_scratch(const MhaLaunch& launch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return 0;
  return static_cast<std::size_t>(tiles_of(launch.length) *
                                  (kRopeBytes + heads_of_section(launch) * kPackedBytes));
}

void launch_mha_fast(cudaStream_t stream, const MhaLaunch& launch, std::byte* scratch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  check(cudaFuncSetAttribute(mha_fast_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "shared memory of mha");
  const std::int64_t num_tiles = tiles_of(launch.length);
  const std::int64_t heads = heads_of_section(launch);
  for (std::int64_t head = 0; head < launch.num_heads; head += heads) {
    launch_section(stream, {.base = from_head(launch, head, std::min(heads, launch.num_heads - head)),
                            .rope = scratch,
                            .packed = scratch + num_tiles * kRopeBytes,
                            .num_tiles = static_cast<std::int32_t>(num_tiles),
                            .row_tiles = 0,
                            .heads_together = 0});
  }
}

}  // namespace nibble::kernels::cuda
