// The two warpgroups that compute absorbed attention from the tiles in shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/mla_block.cuh"

namespace nibble::kernels::cuda {

// q of a piece's rows, rounded to bf16, by all consumers. Rows past the piece's are zero.
__device__ inline void load_queries(const MlaFast& launch, const Piece& piece, Shared& shared) {
  constexpr int kWarps = kConsumers / 32;
  constexpr int kBatch = 4;    // rows of a warp whose loads are under way together
  constexpr int kVectors = 5;  // of a lane and row: four columns each, the last of them of the rope part
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int num_rows = num_rows_of(launch, piece);
  const Heads& latent = launch.base.q_latent;
  const Heads& pe = launch.base.q_pe;
  for (int first = static_cast<int>(threadIdx.x) / 32; first < kMlaRows; first += kBatch * kWarps) {
    float4 values[kBatch][kVectors];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int row = first + j * kWarps;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) values[j][i] = {0.0F, 0.0F, 0.0F, 0.0F};
      if (row >= num_rows) continue;
      const RowOf at = row_of(launch, row);
      const std::int64_t q_row = piece.first_row + at.token;
      const auto* q = reinterpret_cast<const float4*>(latent.data + q_row * latent.row_stride +
                                                      at.head * latent.head_stride);
      const auto* q_pe =
          reinterpret_cast<const float4*>(pe.data + q_row * pe.row_stride + at.head * pe.head_stride);
#pragma unroll
      for (int i = 0; i < kVectors - 1; ++i) values[j][i] = __ldg(q + i * 32 + lane);
      values[j][kVectors - 1] = __ldg(q_pe + lane % 16);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int row = first + j * kWarps;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        if (i == kVectors - 1 && lane >= 16) continue;
        const int column4 = i * 32 + lane;
        const float4 v = values[j][i];
        auto* to =
            shared.q + column4 / 16 * kPanelBytes + panel_offset(row, column4 % 16 / 2) + column4 % 2 * 8;
        *reinterpret_cast<uint2*>(to) = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
      }
    }
  }
}

// Zeroes the values of entries that the tile's sequence does not have: whatever lies there (NaN times a
// probability of 0 is NaN).
__device__ inline void clear_rows(std::uint8_t* tile, int first_row) {
  const int num_chunks = (kMlaTile - first_row) * 8;
  for (int i = static_cast<int>(threadIdx.x) % kGroupThreads; i < num_chunks * kValuePanels;
       i += kGroupThreads) {
    const int panel = i / num_chunks;
    const int chunk = i % num_chunks;
    *reinterpret_cast<uint4*>(tile + panel * kPanelBytes + first_row * 128 + chunk * 16) = {0, 0, 0, 0};
  }
  fence_async_proxy();
}

template <int kGroup>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const MlaFast& launch, Shared& shared)
      : launch_(launch), shared_(shared) {
    scale_ = launch.base.scale * 1.44269504F;  // log2(e)
  }

  __device__ __forceinline__ void run(const Schedule& schedule) {
    const int part = static_cast<int>(blockIdx.x) / launch_.num_groups;
    const int end = schedule.cut(part + 1);
    Piece piece;
    for (int position = schedule.cut(part); schedule.next(position, end, piece);) {
      load_queries(launch_, piece, shared_);
      fence_async_proxy();
      barrier_sync<kBlockBarrier, kConsumers>();
      begin(piece);
      int tile = piece.tile_begin + kGroup;
#pragma unroll 1
      for (; tile < piece.tile_end; tile += 2) work_on(piece, tile);
      if (tile == piece.tile_end) add_other_tile();
      finish(schedule, piece, part);
    }
  }

 private:
  static constexpr int kOther = 1 - kGroup;
  // bf16 A fragments of four k16 steps.
  using Probabilities = std::uint32_t[4][4];

  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) % 32; }
  // Of this thread's two rows, the one of index 0 or 1.
  __device__ __forceinline__ int row(int i) const {
    return static_cast<int>(threadIdx.x) % kGroupThreads / 32 * 16 + lane() / 4 + 8 * i;
  }

  __device__ __forceinline__ void begin(const Piece& piece) {
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

  // A turn: a tile of this group, and the values of the other group's tile before it.
  __device__ __forceinline__ void work_on(const Piece& piece, int tile) {
    const bool others = kGroup == 1 || tile > piece.tile_begin;
    const bool own_first = !others || own_tile_comes_first();
    if (own_first) first_scores();
    if (others) add_other_tile();
    if (!own_first) first_scores();
    last_scores();
    wgmma_wait<0>();
    finish_tile(piece, tile);
  }

  // Whether the first part of this group's tile is there before the other group's probabilities. Its scores
  // are then worked on while the other group finds those; else that group's buffer is freed without waiting
  // for this one's. One answer for the whole group.
  __device__ __forceinline__ bool own_tile_comes_first() const {
    if (threadIdx.x % kGroupThreads == 0) {
      const std::uint32_t probabilities = shared_address(&shared_.ready[kOther]);
      const std::uint32_t tile = shared_address(&shared_.full[kGroup][kGroup * kHalfChunks]);
      bool own_first = false;
      while (!mbarrier_is_complete(probabilities, ready_phase_) && !own_first) {
        own_first = mbarrier_is_complete(tile, phase_[kGroup]);
      }
      shared_.own_first[kGroup] = own_first;
    }
    // The next answer is written after the barrier in finish_tile, when all have read this one.
    barrier_sync<kGroupBarrier + kGroup, kGroupThreads>();
    return shared_.own_first[kGroup];
  }

  // The other group's probabilities times this group's half of its tile.
  __device__ __forceinline__ void add_other_tile() {
    mbarrier_wait(shared_address(&shared_.ready[kOther]), ready_phase_);
    ready_phase_ ^= 1U;
    const float top[2] = {shared_.top[kOther][row(0)], shared_.top[kOther][row(1)]};
    move_top(top);
    add_other_values();
    wgmma_wait<0>();
    release(kOther);
  }

  // From a tile's scores to its values.
  __device__ __forceinline__ void finish_tile(const Piece& piece, int tile) {
    mask(piece, tile);
    float top[2];
    row_tops(top);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = raised(top_[i], top[i]);
      if (lane() % 4 == 0) shared_.top[kGroup][row(i)] = top[i];
    }
    move_top(top);
    Probabilities p;
    probabilities(p);
    // The whole group is done with the rope columns, and with clearing rows.
    barrier_sync<kGroupBarrier + kGroup, kGroupThreads>();
    store_probabilities(p);
    fence_async_proxy();
    __syncwarp();
    if (lane() == 0) mbarrier_arrive(shared_address(&shared_.ready[kGroup]));
    add_own_values(p);
    wgmma_wait<0>();
    release(kGroup);
  }

  // This group's half of the other group's buffer. The other half may be in the next tile's hands already: to
  // wait for it could be to wait for ever.
  __device__ __forceinline__ void wait_other_values() {
#pragma unroll
    for (int i = 0; i < kHalfChunks; ++i) wait_chunk(kOther, kGroup * kHalfChunks + i);
    phase_[kOther] ^= 1U;
  }
  __device__ __forceinline__ void wait_chunk(int buffer, int chunk) {
    mbarrier_wait(shared_address(&shared_.full[buffer][chunk]), phase_[buffer]);
  }

  // Frees this group's half of a buffer.
  __device__ __forceinline__ void release(int buffer) {
    if (lane() == 0) mbarrier_arrive(shared_address(&shared_.empty[buffer][kGroup]));
  }

  // s_ = q k^T of the tile in this group's buffer, in two parts: the half of the columns that this group's
  // own values free, then the other one and the rope part.
  __device__ __forceinline__ void first_scores() {
#pragma unroll
    for (int i = 0; i < kHalfChunks; ++i) add_scores(kGroup * kHalfChunks + i, i > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void last_scores() {
#pragma unroll
    for (int i = 0; i < kHalfChunks; ++i) add_scores(kOther * kHalfChunks + i, true);
    add_scores(kChunks - 1, true);
    wgmma_commit();
    phase_[kGroup] ^= 1U;
  }
  __device__ __forceinline__ void add_scores(int chunk, bool add) {
    const std::uint64_t q = k_major(shared_address(shared_.q));
    const std::uint64_t k = k_major(shared_address(shared_.kv[kGroup]));
    wait_chunk(kGroup, chunk);
    wgmma_fence();
#pragma unroll
    for (int step = 8 * chunk; step < min(8 * chunk + 8, kMlaWidth / 16); ++step) {
      const int at = step / 4 * (kPanelBytes / 16) + step % 4 * kStepColumns;
      wgmma_bf16(s_, q + at, k + at, add || step > 8 * chunk ? 1 : 0);
    }
  }

  // Scores of entries that a row does not see are -infinity, the values of those that nobody sees 0.
  __device__ __forceinline__ void mask(const Piece& piece, int tile) {
    const int begin = tile * kMlaTile;
    if (piece.length() - begin < kMlaTile) clear_rows(shared_.kv[kGroup], piece.length() - begin);
    if (begin + kMlaTile <= piece.num_visible) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int entry = begin + i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (entry >= visible_[i / 2 % 2]) s_[i] = -INFINITY;
    }
  }

  // Maximum of each row's scaled scores, the same in the four threads of the row.
  __device__ __forceinline__ void row_tops(float (&tops)[2]) const {
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

  __device__ __forceinline__ static float raised(float top, float candidate) {
    return candidate > top + kSlack ? candidate : top;
  }

  // p = 2^(scaled score - top) as bf16 A fragments of four k16 steps, added to the sums.
  __device__ __forceinline__ void probabilities(Probabilities& p) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float base = top_[i] == -INFINITY ? 0.0F : top_[i];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float a = exp2_approx(fmaf(s_[4 * j + 2 * i], scale_, -base));
        const float b = exp2_approx(fmaf(s_[4 * j + 2 * i + 1], scale_, -base));
        sum_[i] += a + b;
        p[j / 2][j % 2 * 2 + i] = bf16_pair(a, b);
      }
    }
  }

  // Into the rope panel of this group's buffer.
  __device__ __forceinline__ void store_probabilities(const Probabilities& p) {
    const int r = static_cast<int>(threadIdx.x) % kGroupThreads / 32 * 16 + lane() % 16;
    const std::uint32_t panel = shared_address(shared_.kv[kGroup]) + kRopePanel * kPanelBytes;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      store_matrices(panel + static_cast<std::uint32_t>(panel_offset(r, 2 * step + lane() / 16)), p[step]);
    }
  }

  // Makes `top` the maximum that o and the sums refer to.
  __device__ __forceinline__ void move_top(const float (&top)[2]) {
    const bool moved = top[0] != top_[0] || top[1] != top_[1];
    if (__any_sync(0xFFFFFFFFU, moved)) {
      wgmma_wait<0>();  // scores may be under way: the compiler cannot tell them from o
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

  __device__ __forceinline__ std::uint64_t values_of(int buffer) const {
    return mn_major(shared_address(shared_.kv[buffer]) + kGroup * kHalfPanels * kPanelBytes, kPanelBytes);
  }

  __device__ __forceinline__ void add_own_values(const Probabilities& p) {
    const std::uint64_t v = values_of(kGroup);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma_bf16_mn(o_, p[step], v + step * kStepRows);
    wgmma_commit();
  }

  __device__ __forceinline__ void add_other_values() {
    wait_other_values();
    const std::uint64_t v = values_of(kOther);
    const std::uint64_t p = k_major(shared_address(shared_.kv[kOther]) + kRopePanel * kPanelBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma_bf16_mn(o_, p + step * kStepColumns, v + step * kStepRows);
    wgmma_commit();
  }

  // Writes the piece's result: to o if nobody else works on its unit, else to the part's slot.
  __device__ __forceinline__ void finish(const Schedule& schedule, const Piece& piece, int part) {
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
      const float total = shared_.sum[0][r] + shared_.sum[1][r];
      float* to = nullptr;
      float factor = 1.0F;
      if (r < num_rows && piece.whole()) {
        const RowOf at = row_of(launch_, r);
        const Heads& o = launch_.base.o;
        to = o.data + (piece.first_row + at.token) * o.row_stride + at.head * o.head_stride +
             kGroup * (kMlaLatent / 2);
        factor = 1.0F / total;
      } else if (r < num_rows) {
        to = launch_.partial_o + (slot * kMlaRows + r) * kMlaLatent + kGroup * (kMlaLatent / 2);
        if (kGroup == 0 && lane() % 4 == 0) launch_.partial_ml[slot * kMlaRows + r] = {top_[i], total};
      }
      store_row(to, i, factor);
    }
    if (kGroup == 0 && group == 0 && piece.starts_unit) {
      const int last_part = schedule.last_part(piece, part);
      for (int t = static_cast<int>(threadIdx.x); t < piece.num_tokens; t += kGroupThreads) {
        launch_.splits[piece.first_row + t] = {.first_part = part,
                                               .num_parts = static_cast<std::int16_t>(last_part - part + 1),
                                               .token = static_cast<std::int16_t>(t)};
      }
    }
  }

  // This group's columns of row i, times the factor; null stores nothing. The four threads of a row trade
  // pairs, so that each stores four neighbouring columns.
  __device__ __forceinline__ void store_row(float* to, int i, float factor) {
    const bool odd = lane() % 2 != 0;
#pragma unroll
    for (int j = 0; j < 32; j += 2) {
      const float a0 = o_[4 * j + 2 * i] * factor;
      const float a1 = o_[4 * j + 2 * i + 1] * factor;
      const float b0 = o_[4 * j + 4 + 2 * i] * factor;
      const float b1 = o_[4 * j + 4 + 2 * i + 1] * factor;
      const float x = __shfl_xor_sync(0xFFFFFFFFU, odd ? a0 : b0, 1);
      const float y = __shfl_xor_sync(0xFFFFFFFFU, odd ? a1 : b1, 1);
      const float4 v = {odd ? x : a0, odd ? y : a1, odd ? b0 : x, odd ? b1 : y};
      if (to != nullptr) *reinterpret_cast<float4*>(to + 8 * (j + (odd ? 1 : 0)) + lane() % 4 / 2 * 4) = v;
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
  std::uint32_t ready_phase_ = 0;
};

}  // namespace nibble::kernels::cuda
