// Absorbed attention over a bf16 cache of 512 + 64 values; docs/kernels/mla_decode.md has the budget and the
// reasons.
//
// A block holds 64 query rows: q in shared memory, o [64 x 512] in the registers of two warpgroups, 256
// columns each. Tiles of 64 entries alternate between two buffers. Warpgroup w computes the scores of the
// tiles in buffer w; both add the probabilities of both tiles times their half of the values. A producer
// warp fills the buffers by bulk copies.
//
// Probabilities replace the tile's rope columns (panel 8), which nobody needs once the scores are there.
#include <climits>
#include <cstdint>

#include "kernels/cuda/attention/hopper.cuh"
#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/attention/mla_schedule.cuh"
#include "kernels/cuda/attention/overlap.h"
#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kPanels = kMlaWidth / kPanelColumns;        // 9
constexpr int kValuePanels = kMlaLatent / kPanelColumns;  // 8
constexpr int kHalfPanels = kValuePanels / 2;             // those of one warpgroup's half of o
constexpr int kRopePanel = kValuePanels;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
// Registers of a thread: 168 at the start, then moved from the producer's warpgroup to the consumers'.
constexpr int kConsumerRegisters = 232;
constexpr int kProducerRegisters = 40;
constexpr int kTileBytes = kPanels * kPanelBytes;

// The running maximum is moved only when it grows by more than this (base 2), so that o is seldom rescaled;
// probabilities stay below 2^8, and their sum carries the same factor.
constexpr float kSlack = 8.0F;

// Named barriers; 0 is __syncthreads.
enum Barrier : int { kBlockBarrier = 1, kFirstScores = 2, kSecondScores = 3, kGroupBarrier = 4 };  // and 5

// Each half of a buffer (the panels of one warpgroup's values) is freed on its own; the rope panel, later the
// probabilities, with the half of the warpgroup that reads those probabilities. A buffer is filled in chunks
// of two panels (the last one is the rope panel), so that scores begin before all of it is there.
constexpr int kChunks = (kPanels + 1) / 2;
constexpr int kHalfChunks = kHalfPanels / 2;
struct Shared {
  alignas(1024) std::uint8_t q[kTileBytes];
  alignas(1024) std::uint8_t kv[2][kTileBytes];
  float top[2][kMlaRows];  // after the first, the second tile of a pair
  float sum[2][kMlaRows];
  std::uint64_t full[2][kChunks];  // [buffer]
  std::uint64_t empty[2][2];       // [buffer][half]
  ScheduleMemory schedule;
};

__device__ constexpr int rope_half(int buffer) { return buffer == 0 ? 1 : 0; }

__device__ int num_rows_of(const MlaFast& launch, const Piece& piece) {
  return launch.num_groups > 1 ? min(kMlaRows, launch.base.num_heads - static_cast<int>(blockIdx.x) %
                                                                           launch.num_groups * kMlaRows)
                               : piece.num_tokens * launch.base.num_heads;
}

// Token (within the piece) and head of a block's row.
struct RowOf {
  int token;
  int head;
};
__device__ RowOf row_of(const MlaFast& launch, int row) {
  if (launch.num_groups > 1) {
    return {.token = 0, .head = static_cast<int>(blockIdx.x) % launch.num_groups * kMlaRows + row};
  }
  return {.token = row / launch.base.num_heads, .head = row % launch.base.num_heads};
}

// ------------------------------------------------------------------------------------------------------------
// Producer

class PageIds {
 public:
  __device__ PageIds(const MlaFast& launch, const Piece& piece)
      : table_(launch.base.page_tables + static_cast<std::int64_t>(piece.seq) * launch.base.max_pages),
        page_size_(launch.base.page_size),
        box_rows_(launch.box_rows),
        length_(piece.length()) {}

  // First cache slot of the box that begins at an entry; called by the whole warp. Entries are asked for in
  // ascending order; 32 boxes are looked up at a time.
  __device__ int slot(int entry) {
    const int box = entry / box_rows_;
    if (box >= next_) {
      first_ = box;
      next_ = box + 32;
      const int mine = (box + static_cast<int>(threadIdx.x) % 32) * box_rows_;
      slot_ = mine < length_ ? table_[mine / page_size_] * page_size_ + mine % page_size_ : 0;
    }
    return __shfl_sync(0xFFFFFFFFU, slot_, box - first_);
  }

 private:
  const std::int32_t* table_;
  int page_size_;
  int box_rows_;
  int length_;
  int first_ = 0;
  int next_ = 0;
  int slot_ = 0;
};

__device__ void produce(const MlaFast& launch, const CUtensorMap& map, const Schedule& schedule,
                        Shared& shared) {
  const int part = static_cast<int>(blockIdx.x) / launch.num_groups;
  const bool leader = threadIdx.x % 32 == 0;
  const std::uint64_t policy = launch.num_groups > 1 ? kEvictNormal : kEvictFirst;
  std::uint32_t phase[2] = {1, 1};  // a fresh barrier passes a wait for phase 1
  Piece piece;
  const int end = schedule.cut(part + 1);
  for (int position = schedule.cut(part); schedule.next(part, position, end, piece);) {
    PageIds pages(launch, piece);
    for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) {
      const int buffer = (tile - piece.tile_begin) % 2;
      const int begin = tile * kMlaTile;
      const int num_boxes = (min(kMlaTile, piece.length() - begin) + launch.box_rows - 1) / launch.box_rows;
      const int panel_bytes = num_boxes * launch.box_rows * 128;
      for (int half = 0; half < 2; ++half) {
        mbarrier_wait(shared_address(&shared.empty[buffer][half]), phase[buffer]);
        const auto copy_chunk = [&](int chunk) {
          const std::uint32_t full = shared_address(&shared.full[buffer][chunk]);
          const int num_panels = chunk == kChunks - 1 ? 1 : 2;
          if (leader) mbarrier_expect(full, num_panels * panel_bytes);
          for (int box = 0; box < num_boxes; ++box) {
            const int slot = pages.slot(begin + box * launch.box_rows);
            if (!leader) continue;
            const std::uint32_t to =
                shared_address(shared.kv[buffer]) + static_cast<std::uint32_t>(box * launch.box_rows * 128);
            for (int p = 2 * chunk; p < 2 * chunk + num_panels; ++p) {
              copy_box(to + p * kPanelBytes, map, p * kPanelColumns, slot, full, policy);
            }
          }
        };
        for (int i = 0; i < kHalfChunks; ++i) copy_chunk(half * kHalfChunks + i);
        if (half == rope_half(buffer)) copy_chunk(kChunks - 1);
      }
      phase[buffer] ^= 1U;
    }
  }
}

// Brings the queries of the part's later pieces nearer; one warp. The first one's are read at once anyway.
__device__ void prefetch_queries(const MlaFast& launch, const Schedule& schedule) {
  constexpr int kMaxPieces = 4;  // what is fetched too early is lost again
  const int part = static_cast<int>(blockIdx.x) / launch.num_groups;
  const int end = schedule.cut(part + 1);
  int position = schedule.cut(part);
  Piece piece;
  for (int i = 0; i < kMaxPieces && schedule.next(part, position, end, piece); ++i) {
    const int num_rows = i == 0 ? 0 : num_rows_of(launch, piece);
    for (int row = static_cast<int>(threadIdx.x) % 32; row < num_rows; row += 32) {
      const RowOf at = row_of(launch, row);
      const Heads& latent = launch.base.q_latent;
      const Heads& pe = launch.base.q_pe;
      const std::int64_t q_row = piece.first_row + at.token;
      prefetch_global(latent.data + q_row * latent.row_stride + at.head * latent.head_stride, kMlaLatent * 4);
      prefetch_global(pe.data + q_row * pe.row_stride + at.head * pe.head_stride, kMlaRope * 4);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------
// Consumers

// q of a piece's rows, rounded to bf16, by all consumers. Rows past the piece's are zero.
__device__ void load_queries(const MlaFast& launch, const Piece& piece, Shared& shared) {
  constexpr int kWarps = kConsumers / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int num_rows = num_rows_of(launch, piece);
#pragma unroll 4
  for (int row = static_cast<int>(threadIdx.x) / 32; row < kMlaRows; row += kWarps) {
    float4 values[5];
    const RowOf at = row_of(launch, row);
    const bool present = row < num_rows;
    const std::int64_t q_row = piece.first_row + (present ? at.token : 0);
    const std::int64_t head = present ? at.head : 0;
    const Heads& latent = launch.base.q_latent;
    const Heads& pe = launch.base.q_pe;
    const auto* q =
        reinterpret_cast<const float4*>(latent.data + q_row * latent.row_stride + head * latent.head_stride);
    const auto* q_pe =
        reinterpret_cast<const float4*>(pe.data + q_row * pe.row_stride + head * pe.head_stride);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = q[i * 32 + lane];
    values[4] = q_pe[lane % 16];
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      if (i == 4 && lane >= 16) continue;
      const int at4 = i * 32 + lane;  // fourth of four columns
      const float4 v = present ? values[i] : float4{0.0F, 0.0F, 0.0F, 0.0F};
      auto* to = shared.q + at4 / 16 * kPanelBytes + panel_offset(row, at4 % 16 / 2) + at4 % 2 * 8;
      *reinterpret_cast<uint2*>(to) = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
    }
  }
}

// Zeroes the values of entries that the tile's sequence does not have: whatever lies there (NaN times a
// probability of 0 is NaN).
__device__ void clear_rows(std::uint8_t* tile, int first_row) {
  const int num_chunks = (kMlaTile - first_row) * 8;
  for (int i = static_cast<int>(threadIdx.x) % kGroupThreads; i < num_chunks * kValuePanels;
       i += kGroupThreads) {
    const int panel = i / num_chunks;
    const int chunk = i % num_chunks;
    *reinterpret_cast<uint4*>(tile + panel * kPanelBytes + first_row * 128 + chunk * 16) = {0, 0, 0, 0};
  }
}

template <int kGroup>
class Consumer {
 public:
  __device__ Consumer(const MlaFast& launch, Shared& shared) : launch_(launch), shared_(shared) {
    scale_ = launch.base.scale * 1.44269504F;  // log2(e)
  }

  __device__ void run(const Schedule& schedule) {
    const int part = static_cast<int>(blockIdx.x) / launch_.num_groups;
    const int end = schedule.cut(part + 1);
    Piece piece;
    for (int position = schedule.cut(part); schedule.next(part, position, end, piece);) {
      load_queries(launch_, piece, shared_);
      fence_async_proxy();
      barrier_sync<kBlockBarrier, kConsumers>();
      begin(piece);
      for (int tile = piece.tile_begin; tile < piece.tile_end; tile += 2) {
        if constexpr (kGroup == 0) {
          first_of_pair(piece, tile);
        } else {
          second_of_pair(piece, tile);
        }
      }
      finish(piece, part);
    }
  }

 private:
  static constexpr int kOther = 1 - kGroup;

  __device__ int lane() const { return static_cast<int>(threadIdx.x) % 32; }
  // Of this thread's two rows, the one of index 0 or 1.
  __device__ int row(int i) const {
    return static_cast<int>(threadIdx.x) % kGroupThreads / 32 * 16 + lane() / 4 + 8 * i;
  }

  __device__ void begin(const Piece& piece) {
    const int num_rows = num_rows_of(launch_, piece);
#pragma unroll
    for (int i = 0; i < 128; ++i) o_[i] = 0.0F;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top_[i] = -INFINITY;
      sum_[i] = 0.0F;
      visible_[i] = piece.num_visible + (row(i) < num_rows ? row_of(launch_, row(i)).token : 0);
    }
  }

  // The tiles in buffer 0: their scores, then the probabilities of both.
  __device__ void first_of_pair(const Piece& piece, int tile) {
    const bool paired = tile + 1 < piece.tile_end;
    scores(piece, tile);
    float tops[2];
    row_tops(tops);
    float new_top[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      new_top[i] = raised(top_[i], tops[i]);
      if (lane() % 4 == 0) shared_.top[0][row(i)] = new_top[i];
    }
    std::uint32_t p[16];
    float sums[2];
    probabilities(new_top, p, sums);
    store_probabilities(p);
    fence_async_proxy();
    barrier_arrive<kFirstScores, kConsumers>();
    if (piece.length() - tile * kMlaTile < kMlaTile) barrier_sync<kGroupBarrier + kGroup, kGroupThreads>();
    move_top(new_top);
#pragma unroll
    for (int i = 0; i < 2; ++i) sum_[i] += sums[i];
    add_own_values(p);
    if (paired) {
      barrier_sync<kSecondScores, kConsumers>();
#pragma unroll
      for (int i = 0; i < 2; ++i) new_top[i] = shared_.top[1][row(i)];
    }
    wgmma_wait<0>();
    release(0);
    if (!paired) return;
    move_top(new_top);
    add_other_values();
    wgmma_wait<0>();
    release(1);
  }

  // The tiles in buffer 1, with the probabilities of buffer 0 added first.
  __device__ void second_of_pair(const Piece& piece, int tile) {
    const bool paired = tile + 1 < piece.tile_end;
    float tops[2];
    if (paired) {
      scores(piece, tile + 1);
      row_tops(tops);
    }
    barrier_sync<kFirstScores, kConsumers>();
    float new_top[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) new_top[i] = shared_.top[0][row(i)];
    move_top(new_top);
    add_other_values();
    if (!paired) {
      wgmma_wait<0>();
      release(0);
      return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      new_top[i] = raised(new_top[i], tops[i]);
      if (lane() % 4 == 0) shared_.top[1][row(i)] = new_top[i];
    }
    std::uint32_t p[16];
    float sums[2];
    probabilities(new_top, p, sums);
    store_probabilities(p);
    fence_async_proxy();
    barrier_arrive<kSecondScores, kConsumers>();
    if (piece.length() - (tile + 1) * kMlaTile < kMlaTile)
      barrier_sync<kGroupBarrier + kGroup, kGroupThreads>();
    wgmma_wait<0>();
    release(0);
    move_top(new_top);
#pragma unroll
    for (int i = 0; i < 2; ++i) sum_[i] += sums[i];
    add_own_values(p);
    wgmma_wait<0>();
    release(1);
  }

  __device__ void wait_full(int buffer) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) wait_chunk(buffer, chunk);
    phase_[buffer] ^= 1U;
  }
  __device__ void wait_chunk(int buffer, int chunk) {
    mbarrier_wait(shared_address(&shared_.full[buffer][chunk]), phase_[buffer]);
  }

  // Frees this group's half of a buffer.
  __device__ void release(int buffer) {
    if (lane() == 0) mbarrier_arrive(shared_address(&shared_.empty[buffer][kGroup]));
  }

  // s_ = q k^T of a tile in this group's buffer; entries a row does not see are -infinity.
  __device__ void scores(const Piece& piece, int tile) {
    std::uint8_t* kv = shared_.kv[kGroup];
    const int begin = tile * kMlaTile;
    const std::uint64_t q = k_major(shared_address(shared_.q));
    const std::uint64_t k = k_major(shared_address(kv));
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      // In the order in which the copies are made.
      const int chunk = kGroup == 0 || i < kHalfChunks ? i : i == kHalfChunks ? kChunks - 1 : i - 1;
      wait_chunk(kGroup, chunk);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int step = 8 * chunk + j;
        if (step >= kMlaWidth / 16) continue;
        const int at = (step / 4 * kPanelBytes + step % 4 * 32) / 16;
        wgmma_64x64(s_, q + at, k + at, step > 0);
      }
    }
    wgmma_commit();
    phase_[kGroup] ^= 1U;
    wgmma_wait<0>();
    if (piece.length() - begin < kMlaTile) clear_rows(kv, piece.length() - begin);
    if (begin + kMlaTile <= piece.num_visible) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int entry = begin + i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (entry >= visible_[i / 2 % 2]) s_[i] = -INFINITY;
    }
  }

  // Maximum of each row's scaled scores, the same in the four threads of the row.
  __device__ void row_tops(float (&tops)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s_[4 * j + 2 * i], s_[4 * j + 2 * i + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 2));
      tops[i] = top * scale_;
    }
  }

  __device__ static float raised(float top, float candidate) {
    return candidate > top + kSlack ? candidate : top;
  }

  // p = 2^(scaled score - top) as bf16 A fragments of four k16 steps; sums of this thread's values.
  __device__ void probabilities(const float (&top)[2], std::uint32_t (&p)[16], float (&sums)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float base = top[i] == -INFINITY ? 0.0F : top[i];
      sums[i] = 0.0F;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float a = exp2_approx(fmaf(s_[4 * j + 2 * i], scale_, -base));
        const float b = exp2_approx(fmaf(s_[4 * j + 2 * i + 1], scale_, -base));
        sums[i] += a + b;
        p[2 * j + i] = bf16_pair(a, b);
      }
    }
  }

  // Into the rope panel of this group's buffer.
  __device__ void store_probabilities(const std::uint32_t (&p)[16]) {
    std::uint8_t* panel = shared_.kv[kGroup] + kRopePanel * kPanelBytes;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      auto* to = panel + panel_offset(row(i % 2), i / 2) + lane() % 4 * 4;
      *reinterpret_cast<std::uint32_t*>(to) = p[i];
    }
  }

  // Makes `top` the maximum that o and the sums refer to.
  __device__ void move_top(const float (&top)[2]) {
    const bool moved = top[0] != top_[0] || top[1] != top_[1];
    if (__any_sync(0xFFFFFFFFU, moved)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float factor = top[i] == top_[i] ? 1.0F : exp2_approx(top_[i] - top[i]);
        sum_[i] *= factor;
#pragma unroll
        for (int j = 0; j < 64; ++j) o_[j / 2 * 4 + 2 * i + j % 2] *= factor;
        top_[i] = top[i];
      }
    }
  }

  __device__ std::uint64_t values_of(int buffer) const {
    return mn_major(shared_address(shared_.kv[buffer]) + kGroup * kHalfPanels * kPanelBytes);
  }

  __device__ void add_own_values(const std::uint32_t (&p)[16]) {
    const std::uint64_t v = values_of(kGroup);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma_64x256(o_, p + 4 * step, v + step * (2048 / 16));
    wgmma_commit();
  }

  __device__ void add_other_values() {
    wait_full(kOther);
    const std::uint64_t v = values_of(kOther);
    const std::uint64_t p = k_major(shared_address(shared_.kv[kOther]) + kRopePanel * kPanelBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma_64x256(o_, p + step * 2, v + step * (2048 / 16), true);
    wgmma_commit();
  }

  // Writes the piece's result: to o if nobody else works on its unit, else to the part's slot.
  __device__ void finish(const Piece& piece, int part) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum_[i] += __shfl_xor_sync(0xFFFFFFFFU, sum_[i], 1);
      sum_[i] += __shfl_xor_sync(0xFFFFFFFFU, sum_[i], 2);
      if (lane() % 4 == 0) shared_.sum[kGroup][row(i)] = sum_[i];
    }
    barrier_sync<kBlockBarrier, kConsumers>();
    const int num_rows = num_rows_of(launch_, piece);
    const int group = static_cast<int>(blockIdx.x) % launch_.num_groups;
    const std::int64_t slot =
        static_cast<std::int64_t>(2 * part + (piece.starts_unit ? 1 : 0)) * launch_.num_groups + group;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = row(i);
      if (r >= num_rows) continue;
      const float total = shared_.sum[0][r] + shared_.sum[1][r];
      float* to;
      float factor = 1.0F;
      if (piece.whole()) {
        const RowOf at = row_of(launch_, r);
        const Heads& o = launch_.base.o;
        to = o.data + (piece.first_row + at.token) * o.row_stride + at.head * o.head_stride;
        factor = 1.0F / total;
      } else {
        to = launch_.partial_o + (slot * kMlaRows + r) * kMlaLatent;
        if (kGroup == 0 && lane() % 4 == 0) launch_.partial_ml[slot * kMlaRows + r] = {top_[i], total};
      }
      to += kGroup * (kMlaLatent / 2) + lane() % 4 * 2;
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j) = {o_[4 * j + 2 * i] * factor, o_[4 * j + 2 * i + 1] * factor};
      }
    }
    if (kGroup == 0 && group == 0 && piece.starts_unit) {
      for (int t = static_cast<int>(threadIdx.x); t < piece.num_tokens; t += kGroupThreads) {
        launch_.splits[piece.first_row + t] = {
            .first_part = part,
            .num_parts = static_cast<std::int16_t>(piece.last_part - part + 1),
            .token = static_cast<std::int16_t>(t)};
      }
    }
  }

  const MlaFast& launch_;
  Shared& shared_;
  float scale_;
  float o_[128];
  float s_[32];
  float top_[2];
  float sum_[2];  // of this group's tiles
  int visible_[2];
  std::uint32_t phase_[2] = {0, 0};
};

// Rows that see nothing: of empty sequences, and past the last sequence.
__device__ void mark_empty_rows(const MlaFast& launch) {
  const MlaLaunch& base = launch.base;
  const int first = base.cu_seqlens_q[0];
  const int thread = static_cast<int>(threadIdx.x);
  for (int s = thread; s < base.num_seqs; s += kThreads) {
    const int begin = base.cu_seqlens_q[s];
    const int end = base.cu_seqlens_q[s + 1];
    if (base.seq_lens[s] >= end - begin) continue;
    for (int row = begin; row < end; ++row) launch.splits[row - first] = {0, 0, 0};
  }
  for (std::int64_t row = base.cu_seqlens_q[base.num_seqs] - first + thread; row < base.num_rows;
       row += kThreads) {
    launch.splits[row] = {0, 0, 0};
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    mla_fast_kernel(const __grid_constant__ MlaFast launch, const __grid_constant__ CUtensorMap map) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared*>(raw + (1024U - (shared_address(raw) & 1023U)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i) {
      mbarrier_init(shared_address(&shared.empty[i / 2][i % 2]), kGroupThreads / 32);
    }
    for (int i = 0; i < 2 * kChunks; ++i)
      mbarrier_init(shared_address(&shared.full[i / kChunks][i % kChunks]), 1);
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    prefetch_map(map);
  }
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
  if (blockIdx.x == 0) mark_empty_rows(launch);
  Schedule schedule;
  schedule.build(launch, static_cast<int>(gridDim.x) / launch.num_groups, shared.schedule);
  if (static_cast<int>(blockIdx.x) / launch.num_groups >= schedule.num_parts()) return;
  if (threadIdx.x < kGroupThreads) {
    raise_registers<kConsumerRegisters>();
    Consumer<0>(launch, shared).run(schedule);
  } else if (threadIdx.x < kConsumers) {
    raise_registers<kConsumerRegisters>();
    Consumer<1>(launch, shared).run(schedule);
  } else {
    lower_registers<kProducerRegisters>();
    if (threadIdx.x < kConsumers + 32) {
      produce(launch, map, schedule, shared);
    } else if (threadIdx.x < kConsumers + 64) {
      prefetch_queries(launch, schedule);
    }
  }
}

struct Sizes {
  int num_groups;
  int num_parts;
  std::size_t slots;
};

Sizes sizes_of(const MlaLaunch& launch, int num_sms) {
  const int num_groups = (launch.num_heads + kMlaRows - 1) / kMlaRows;
  const int num_parts = num_sms / num_groups > 0 ? num_sms / num_groups : 1;
  return {.num_groups = num_groups,
          .num_parts = num_parts,
          .slots = std::size_t{2} * static_cast<std::size_t>(num_parts * num_groups)};
}

int box_rows_of(int page_size) {
  int rows = kMlaTile;
  while (page_size % rows != 0) rows /= 2;
  return rows;
}

bool aligned(const Heads& t) {
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.row_stride % 4 == 0 &&
         t.head_stride % 4 == 0;
}

}  // namespace

bool mla_fast_supports(const MlaLaunch& launch) {
  constexpr std::int64_t kMaxRows = 65536;  // positions of the schedule are 32 bits
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 20;
  return launch.cache.codes == CacheCodes::bf16 && launch.d_latent == kMlaLatent &&
         launch.d_rope == kMlaRope && launch.scale > 0.0F && launch.num_seqs <= kMlaMaxSeqs &&
         launch.num_rows <= kMaxRows && std::int64_t{launch.max_pages} * launch.page_size <= kMaxLength &&
         box_rows_of(launch.page_size) >= 8 &&
         reinterpret_cast<std::uintptr_t>(launch.cache.data) % 16 == 0 && launch.cache.stride % 8 == 0 &&
         launch.num_slots <= INT_MAX && aligned(launch.q_latent) && aligned(launch.q_pe) && aligned(launch.o);
}

std::size_t mla_fast_scratch(const MlaLaunch& launch, int num_sms) {
  return sizes_of(launch, num_sms).slots * kMlaRows * (kMlaLatent * sizeof(float) + sizeof(float2)) +
         static_cast<std::size_t>(launch.num_rows) * sizeof(MlaSplits);
}

void launch_mla_fast(cudaStream_t stream, const MlaLaunch& launch, int num_sms, std::byte* scratch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  const Sizes sizes = sizes_of(launch, num_sms);
  MlaFast fast{.base = launch,
               .tokens_per_unit = launch.num_heads < kMlaRows ? kMlaRows / launch.num_heads : 1,
               .num_groups = sizes.num_groups,
               .min_tiles = 1,
               .box_rows = box_rows_of(launch.page_size)};
  fast.partial_o = reinterpret_cast<float*>(scratch);
  scratch += sizes.slots * kMlaRows * kMlaLatent * sizeof(float);
  fast.partial_ml = reinterpret_cast<float2*>(scratch);
  scratch += sizes.slots * kMlaRows * sizeof(float2);
  fast.splits = reinterpret_cast<MlaSplits*>(scratch);
  const CUtensorMap map =
      bf16_boxes(launch.cache.data, launch.num_slots, kMlaWidth, launch.cache.stride, fast.box_rows);
  constexpr int kBytes = static_cast<int>(sizeof(Shared)) + 1024;
  check(cudaFuncSetAttribute(mla_fast_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory of mla_absorbed");
  mla_fast_kernel<<<static_cast<unsigned>(sizes.num_parts * sizes.num_groups), kThreads, kBytes, stream>>>(
      fast, map);
  check_launch("mla_absorbed");
  launch_mla_combine(stream, fast);
}

}  // namespace nibble::kernels::cuda
