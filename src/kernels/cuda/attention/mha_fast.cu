// Attention of one sequence's chunk on tensor cores, for keys of 128 + 64 and values of 128.
//
// Every 128 query rows of a head read the same keys and values, so these are bf16: as they come, or rounded
// by a kernel before. A block takes 128 rows of one head through the entries they see, 128 at a time. One
// thread copies; two warpgroups take 64 rows each, and while one turns scores into probabilities the tensor
// cores work on the other's products and on its own product of the tile before.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/mla_fast.h"
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
constexpr int kRoundThreads = 256;

constexpr int kTilePanelBytes = kTile * 128;
constexpr int kKeyPanels = kKey / kPanelColumns;
constexpr int kNopePanels = kNope / kPanelColumns;
constexpr int kValuePanels = kValue / kPanelColumns;

// What heads worked on at the same time may take of the L2 cache.
constexpr std::int64_t kCachedBytes = std::int64_t{8} << 20;

// A launch with its keys and values in bf16, cut into boxes of 64 columns and kTile entries; entries past the
// last are zeros.
struct MhaFast {
  MhaLaunch base;
  CUtensorMap k_nope;  // [length, heads * head_stride]
  CUtensorMap k_pe;    // [length, 64]
  CUtensorMap v;
  std::int32_t row_tiles;
  std::int32_t heads_together;
};

// A float32 tensor [rows, heads, 8 * octets] to a dense one in bf16, a thread an octet.
struct Rounding {
  Heads from;
  uint4* to;
  std::int64_t num_octets;
  std::int32_t num_heads;
  std::int32_t octets;  // of a head
};

__global__ void __launch_bounds__(kRoundThreads) mha_round_kernel(const __grid_constant__ Rounding r) {
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRoundThreads + threadIdx.x;
  if (i >= r.num_octets) return;
  const std::int64_t head = i / r.octets % r.num_heads;
  const std::int64_t row = i / r.octets / r.num_heads;
  const auto* octet = reinterpret_cast<const float4*>(r.from.data + row * r.from.row_stride +
                                                      head * r.from.head_stride + i % r.octets * 8);
  const float4 a = octet[0];
  const float4 b = octet[1];
  r.to[i] = {bf16_pair(a.x, a.y), bf16_pair(a.z, a.w), bf16_pair(b.x, b.y), bf16_pair(b.z, b.w)};
}

struct Shared {
  std::uint8_t q[kGroups][kKeyPanels * kPanelBytes];
  std::uint8_t keys[kStages][kKeyPanels * kTilePanelBytes];
  std::uint8_t values[kStages][kValuePanels * kTilePanelBytes];
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
__device__ __forceinline__ Work work_of_block(const MhaFast& fast) {
  const MhaLaunch& launch = fast.base;
  const int index = static_cast<int>(blockIdx.x);
  const int of_batch = fast.heads_together * fast.row_tiles;
  const int first_head = index / of_batch * fast.heads_together;
  const int heads = min(fast.heads_together, launch.num_heads - first_head);
  const std::int64_t row = static_cast<std::int64_t>(fast.row_tiles - 1 - index % of_batch / heads) * kRows;
  const std::int64_t entries = min(launch.length, launch.length - launch.num_rows + row + kRows);
  return {.head = first_head + index % of_batch % heads,
          .row = row,
          .tiles = static_cast<std::int32_t>((entries + kTile - 1) / kTile)};
}

__device__ __forceinline__ std::uint32_t parity_of(int tile) {
  return static_cast<std::uint32_t>(tile / kStages) & 1U;
}

__device__ void copy_tiles(const MhaFast& fast, const Work& work, Shared& shared) {
  const auto copy = [&](const CUtensorMap& map, std::int64_t column, int tile, std::uint8_t* to,
                        std::uint32_t filled) {
    copy_box(shared_address(to), map, static_cast<int>(column), tile * kTile, filled, kEvictNormal);
  };
  const auto copy_keys = [&](int tile) {
    const int stage = tile % kStages;
    if (tile >= kStages) {
      mbarrier_wait(shared_address(&shared.keys_drained[stage]), parity_of(tile) ^ 1U);
    }
    const std::uint32_t filled = shared_address(&shared.keys_filled[stage]);
    mbarrier_expect(filled, kKeyPanels * kTilePanelBytes);
    std::uint8_t* to = shared.keys[stage];
    for (int i = 0; i < kNopePanels; ++i, to += kTilePanelBytes) {
      copy(fast.k_nope, work.head * fast.base.k_nope.head_stride + i * kPanelColumns, tile, to, filled);
    }
    copy(fast.k_pe, 0, tile, to, filled);
  };
  const auto copy_values = [&](int tile) {
    const int stage = tile % kStages;
    if (tile >= kStages) {
      mbarrier_wait(shared_address(&shared.values_drained[stage]), parity_of(tile) ^ 1U);
    }
    const std::uint32_t filled = shared_address(&shared.values_filled[stage]);
    mbarrier_expect(filled, kValuePanels * kTilePanelBytes);
    for (int i = 0; i < kValuePanels; ++i) {
      copy(fast.v, work.head * fast.base.v.head_stride + i * kPanelColumns, tile,
           shared.values[stage] + i * kTilePanelBytes, filled);
    }
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
  __device__ __forceinline__ Group(const MhaLaunch& launch, const Work& work, Shared& shared)
      : launch_(launch), work_(work), shared_(shared) {
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

__global__ void __launch_bounds__(kThreads, 1) mha_fast_kernel(const __grid_constant__ MhaFast fast) {
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
  const Work work = work_of_block(fast);
  // Registers are dealt out by role: 128 * (24 + 2 * 240) of the block's.
  if (threadIdx.x >= kGroups * 128) {
    lower_registers<24>();
    if (threadIdx.x == kGroups * 128) copy_tiles(fast, work, shared);
  } else if (threadIdx.x < 128) {
    raise_registers<240>();
    Group<0>(fast.base, work, shared).run();
  } else {
    raise_registers<240>();
    Group<1>(fast.base, work, shared).run();
  }
}

bool aligned(const void* data, std::int64_t row_stride, std::int64_t head_stride) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && row_stride % 4 == 0 && head_stride % 4 == 0;
}
bool aligned(const Heads& t) { return aligned(t.data, t.row_stride, t.head_stride); }
// Copies of boxes also want rows 16 bytes apart in bf16.
bool aligned(const Rebuilt& t, bool is_bf16) {
  return aligned(t.data, t.row_stride, t.head_stride) && (!is_bf16 || t.row_stride % 8 == 0);
}

void launch_round(cudaStream_t stream, const Heads& from, std::int64_t rows, int heads, int columns,
                  std::byte* to) {
  const Rounding rounding{.from = from,
                          .to = reinterpret_cast<uint4*>(to),
                          .num_octets = rows * heads * columns / 8,
                          .num_heads = heads,
                          .octets = columns / 8};
  const std::int64_t blocks = (rounding.num_octets + kRoundThreads - 1) / kRoundThreads;
  launch_overlapped(mha_round_kernel, dim3(static_cast<unsigned>(blocks)), kRoundThreads, 0, stream,
                    rounding);
  check_launch("mha's keys and values");
}

std::size_t rounded_bytes(std::int64_t rows, std::int64_t heads, int columns) {
  return static_cast<std::size_t>(rows * heads * columns) * 2;
}

// `t`, rounded to `scratch` if it is not bf16 yet.
Rebuilt rounded(cudaStream_t stream, const MhaLaunch& launch, const Rebuilt& t, int columns,
                std::byte* scratch) {
  if (launch.is_bf16) return t;
  const Heads from{.data = static_cast<float*>(const_cast<void*>(t.data)),
                   .row_stride = t.row_stride,
                   .head_stride = t.head_stride};
  launch_round(stream, from, launch.length, launch.num_heads, columns, scratch);
  return {.data = scratch, .row_stride = std::int64_t{launch.num_heads} * columns, .head_stride = columns};
}

CUtensorMap boxes_of(const MhaLaunch& launch, const Rebuilt& t, int columns) {
  return bf16_boxes(t.data, launch.length, (launch.num_heads - 1) * t.head_stride + columns, t.row_stride,
                    kTile);
}

}  // namespace

bool mha_fast_takes(std::int64_t d_nope, std::int64_t d_rope, std::int64_t d_v) {
  return d_nope == kNope && d_rope == kRope && d_v == kValue;
}

bool mha_fast_supports(const MhaLaunch& launch) {
  return mha_fast_takes(launch.d_nope, launch.d_rope, launch.d_v) && launch.scale > 0.0F &&
         aligned(launch.q_nope) && aligned(launch.q_pe) && aligned(launch.k_nope, launch.is_bf16) &&
         aligned(launch.v, launch.is_bf16) && aligned(launch.o) &&
         aligned(launch.k_pe.data, launch.k_pe.stride, 0);
}

std::size_t mha_fast_scratch(const MhaLaunch& launch) {
  return rounded_bytes(launch.length, 1, kRope) +
         (launch.is_bf16 ? 0 : rounded_bytes(launch.length, launch.num_heads, kNope + kValue));
}

void launch_mha_fast(cudaStream_t stream, const MhaLaunch& launch, std::byte* scratch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  check(cudaFuncSetAttribute(mha_fast_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "shared memory of mha");
  std::byte* keys = scratch + rounded_bytes(launch.length, 1, kRope);
  std::byte* values = keys + rounded_bytes(launch.length, launch.num_heads, kNope);
  launch_round(stream, {.data = launch.k_pe.data, .row_stride = launch.k_pe.stride, .head_stride = 0},
               launch.length, 1, kRope, scratch);
  MhaFast fast{.base = launch, .k_nope = {}, .k_pe = {}, .v = {}, .row_tiles = 0, .heads_together = 0};
  fast.base.k_nope = rounded(stream, launch, launch.k_nope, kNope, keys);
  fast.base.v = rounded(stream, launch, launch.v, kValue, values);
  fast.k_nope = boxes_of(launch, fast.base.k_nope, kNope);
  fast.k_pe = bf16_boxes(scratch, launch.length, kRope, kRope, kTile);
  fast.v = boxes_of(launch, fast.base.v, kValue);
  fast.row_tiles = static_cast<std::int32_t>((launch.num_rows + kRows - 1) / kRows);
  const std::int64_t of_head = static_cast<std::int64_t>(rounded_bytes(launch.length, 1, kNope + kValue));
  fast.heads_together =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(kCachedBytes / of_head, 1, launch.num_heads));
  launch_overlapped(mha_fast_kernel,
                    dim3(static_cast<unsigned>(fast.row_tiles) * static_cast<unsigned>(launch.num_heads)),
                    kThreads, kSharedBytes, stream, fast);
  check_launch("mha");
}

}  // namespace nibble::kernels::cuda
