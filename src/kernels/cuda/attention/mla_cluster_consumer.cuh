// The warps of the small-batch kernel that compute: scores, probabilities and values of one tile after
// another, then the cluster's merge. With so few heads `mma` beats `wgmma`, which reads 64 rows of an operand
// in no less than 32 cycles however few columns the other one has.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/mla_cluster_block.cuh"

namespace nibble::kernels::cuda::mla_cluster {

// The running maximum moves only when it grows by more than this (base 2): o is seldom rescaled.
constexpr float kSlack = 8.0F;

// Warp w makes the probabilities of head w. Of an accumulator, lane 4g + t of a warp has heads g and g + 8.
template <CacheCodes kCodes>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const MlaCluster& launch, const Work& work, Shared<kCodes>& shared)
      : launch_(launch), work_(work), shared_(shared), scale_(launch.base.scale * 1.44269504F) {}  // log2(e)

  // q of the block's heads, rounded to bf16; heads that are not there are zero.
  __device__ __forceinline__ void load_queries() {
    constexpr int kVectors = 5;  // of a lane: four columns each, the last of them of the rope part
    const Heads& latent = launch_.base.q_latent;
    const Heads& pe = launch_.base.q_pe;
    const int head = work_.first_head + warp();
    float4 values[kVectors] = {};
    if (head < launch_.base.num_heads) {
      const auto* q = reinterpret_cast<const float4*>(latent.data + work_.row * latent.row_stride +
                                                      head * latent.head_stride);
      const auto* q_pe =
          reinterpret_cast<const float4*>(pe.data + work_.row * pe.row_stride + head * pe.head_stride);
#pragma unroll
      for (int i = 0; i < kVectors - 1; ++i) values[i] = __ldg(q + i * 32 + lane());
      values[kVectors - 1] = __ldg(q_pe + lane() % 16);
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (i == kVectors - 1 && lane() >= 16) continue;
      const int column4 = i * 32 + lane();
      const float4 v = values[i];
      store_shared(shared_address(shared_.q) +
                       static_cast<std::uint32_t>(column4 / 16 * kQueryPanelBytes +
                                                  panel_offset(warp(), column4 % 16 / 2) + column4 % 2 * 8),
                   bf16_pair(v.x, v.y), bf16_pair(v.z, v.w));
    }
  }

  __device__ __forceinline__ void run(int num_visible, int tile_begin, int tile_end) {
    barrier_sync<kConsumerBarrier, kConsumers>();  // the queries are there
    load_query_fragments();
    for (int tile = tile_begin; tile < tile_end; ++tile) {
      const int i = tile - tile_begin;
      const int buffer = kFp8 ? 0 : i % kBuffers;
      const int begin = tile * kMlaTile;
      take(i);
      make_scores(buffer);
      barrier_sync<kConsumerBarrier, kConsumers>();
      if (num_visible - begin < kMlaTile) clear_entries(buffer, num_visible - begin);
      make_probabilities(begin, num_visible);
      barrier_sync<kConsumerBarrier, kConsumers>();
      rescale();
      add_values(buffer);
      if constexpr (kFp8) {
        barrier_sync<kConsumerBarrier, kConsumers>();  // nobody reads the only buffer any more
      } else {
        release(buffer);
      }
    }
  }

  // Sums over the cluster's splits; each block writes its part of the columns.
  __device__ __forceinline__ void merge() {
    const int splits = launch_.splits;
    float total = sum_;
    for (int mask = 16; mask > 0; mask /= 2) total += __shfl_xor_sync(0xFFFFFFFFU, total, mask);
    if (lane() < splits) {
      store_remote(remote_address(shared_address(&shared_.exchange[work_.split][warp()]),
                                  static_cast<std::uint32_t>(lane())),
                   top_, total);
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
    find_factors(splits);
    barrier_sync<kConsumerBarrier, kConsumers>();
    send(splits);
    cluster_arrive();
    cluster_wait();
    add_and_store(splits);
  }

 private:
  static constexpr bool kFp8 = kIsFp8<kCodes>;
  static constexpr int kQueryPanelBytes = kHeads * 128;
  // Scores: a warp has 16 entries and a quarter of the columns: 128 latent ones and 16 of the rope part.
  static constexpr int kLatentSteps = kMlaLatent / kParts / 16;
  static constexpr int kSteps = kLatentSteps + 1;
  static_assert(kMlaRope == kParts * 16 && kConsumerWarps / kParts * 16 == kMlaTile);
  // Values: a warp has 32 columns.
  static constexpr int kColumnTiles = kMlaLatent / kConsumerWarps / 8;
  static constexpr int kPad = 8;  // floats between the rows that blocks send: they begin in different banks
  static_assert(kHeads * (kMlaLatent + kPad * kMlaMaxSplits) * 4 <= kTileBytes);

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ __forceinline__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ __forceinline__ static int part() { return warp() / kParts; }
  __device__ __forceinline__ static int first_entry() { return warp() % kParts * 16; }

  // Waits for the block's i-th tile.
  __device__ __forceinline__ void take(int i) {
    const int buffer = i % kBuffers;
    mbarrier_wait(shared_address(&shared_.full[buffer]), static_cast<unsigned>(i / kBuffers) & 1U);
    if constexpr (kFp8) {
      decode(buffer);
      release(buffer);
      barrier_sync<kConsumerBarrier, kConsumers>();
    }
  }

  __device__ __forceinline__ void release(int buffer) {
    __syncwarp();
    if (lane() == 0) mbarrier_arrive(shared_address(&shared_.empty[buffer]));
  }

  // Rows of a panel that lie 8 apart have their 16-byte chunks in the same order, and 32 bytes on is an
  // exclusive or: addresses of a panel are one of its first step's, moved.
  static_assert(kLatentSteps == 8, "two panels");
  // Of the part's i-th step of 16 columns, from where this lane's row begins in the first panel.
  __device__ __forceinline__ static std::uint32_t step_address(std::uint32_t row, int panel_bytes, int i) {
    const int panel = i < kLatentSteps ? part() * 2 + i / 4 : kRopePanel;
    const auto step = static_cast<std::uint32_t>(i < kLatentSteps ? i % 4 : part());
    return (row ^ step * 32) + static_cast<std::uint32_t>(panel * panel_bytes);
  }

  // A fragments of the heads and the part's columns.
  __device__ __forceinline__ void load_query_fragments() {
    const std::uint32_t row =
        shared_address(shared_.q) + static_cast<std::uint32_t>(panel_offset(lane() % 16, lane() / 16));
#pragma unroll
    for (int i = 0; i < kSteps; ++i) load_matrices(q_[i], step_address(row, kQueryPanelBytes, i));
  }

  __device__ __forceinline__ void make_scores(int buffer) {
    float s[2][4] = {};
    float rope[2][4] = {};
    // Of four 8 x 8 matrices: entries 0-7 and 8-15, columns 0-7 and 8-15.
    const int entry = first_entry() + lane() % 8 + lane() / 16 * 8;
    const std::uint32_t row = shared_address(shared_.tiles.kv[buffer]) +
                              static_cast<std::uint32_t>(panel_offset(entry, lane() / 8 % 2));
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      std::uint32_t k[4];
      load_matrices(k, step_address(row, kPanelBytes, i));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        // Codes are without their scales, which are not those of the rope part.
        mma_bf16(kFp8 && i == kLatentSteps ? rope[n] : s[n], q_[i], k[2 * n], k[2 * n + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = first_entry() + 8 * n + lane() % 4 * 2;
      float2 scales{};
      if constexpr (kFp8) scales = *reinterpret_cast<const float2*>(&shared_.tiles.scales[column]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float2 value = {s[n][2 * i], s[n][2 * i + 1]};
        if constexpr (kFp8) {
          value = {fmaf(value.x, scales.x, rope[n][2 * i]), fmaf(value.y, scales.y, rope[n][2 * i + 1])};
        }
        *reinterpret_cast<float2*>(&shared_.scores[part()][lane() / 4 + 8 * i][column]) = value;
      }
    }
  }

  // Zeroes the values of entries the row does not see: whatever lies there (NaN times a probability of 0 is
  // NaN).
  __device__ __forceinline__ void clear_entries(int buffer, int first) {
    const int num_chunks = (kMlaTile - first) * 8;
    for (int i = static_cast<int>(threadIdx.x); i < num_chunks * kValuePanels; i += kConsumers) {
      auto* to = shared_.tiles.kv[buffer] + i / num_chunks * kPanelBytes + first * 128 + i % num_chunks * 16;
      *reinterpret_cast<uint4*>(to) = {0, 0, 0, 0};
    }
  }

  // A warp has all 64 scores of its heads, two in a lane.
  __device__ __forceinline__ void make_probabilities(int begin, int num_visible) {
    const int entry = begin + 2 * lane();
    float2 s = {0.0F, 0.0F};
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float2 sum = *reinterpret_cast<const float2*>(&shared_.scores[i][warp()][2 * lane()]);
      s = {s.x + sum.x, s.y + sum.y};
    }
    s = {entry < num_visible ? s.x * scale_ : -INFINITY, entry + 1 < num_visible ? s.y * scale_ : -INFINITY};
    float top = fmaxf(s.x, s.y);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, mask));
    top = top > top_ + kSlack ? top : top_;
    const float factor = top == top_ ? 1.0F : exp2_approx(top_ - top);
    top_ = top;
    const float base = top == -INFINITY ? 0.0F : top;
    float2 p = {exp2_approx(s.x - base), exp2_approx(s.y - base)};
    sum_ = sum_ * factor + p.x + p.y;
    if (lane() == 0) shared_.factor[warp()] = factor;
    if constexpr (kFp8) {
      const float2 scales = *reinterpret_cast<const float2*>(&shared_.tiles.scales[2 * lane()]);
      // What lies past the row's entries may have a scale that is NaN.
      p = {entry < num_visible ? p.x * scales.x : 0.0F, entry + 1 < num_visible ? p.y * scales.y : 0.0F};
    }
    store_shared(shared_address(shared_.p) +
                     static_cast<std::uint32_t>(panel_offset(warp(), lane() / 4) + lane() % 4 * 4),
                 bf16_pair(p.x, p.y));
  }

  // o follows the maxima that have moved.
  __device__ __forceinline__ void rescale() {
    const float low = shared_.factor[lane() / 4];
    const float high = shared_.factor[lane() / 4 + 8];
    if (__any_sync(0xFFFFFFFFU, low != 1.0F || high != 1.0F)) scale_heads(low, high);
  }

  __device__ __forceinline__ void scale_heads(float low, float high) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      o_[j][0] *= low;
      o_[j][1] *= low;
      o_[j][2] *= high;
      o_[j][3] *= high;
    }
  }

  __device__ __forceinline__ void add_values(int buffer) {
    const std::uint32_t p =
        shared_address(shared_.p) + static_cast<std::uint32_t>(panel_offset(lane() % 16, lane() / 16));
    const std::uint32_t kv =
        shared_address(shared_.tiles.kv[buffer]) +
        static_cast<std::uint32_t>(warp() / 2 * kPanelBytes +
                                   panel_offset(lane() % 16, warp() % 2 * 4 + lane() / 16));
#pragma unroll
    for (int step = 0; step < kMlaTile / 16; ++step) {
      std::uint32_t a[4];
      load_matrices(a, p ^ static_cast<std::uint32_t>(step * 32));
#pragma unroll
      for (int pair = 0; pair < kColumnTiles / 2; ++pair) {
        std::uint32_t v[4];
        load_matrices_transposed(
            v, (kv ^ static_cast<std::uint32_t>(pair * 32)) + static_cast<std::uint32_t>(step * 16 * 128));
        mma_bf16(o_[2 * pair], a, v[0], v[1]);
        mma_bf16(o_[2 * pair + 1], a, v[2], v[3]);
      }
    }
  }

  // Four codes to bf16, exact: moved to where bf16 has its exponent and mantissa, then multiplied by the
  // power of two that makes up for the exponents' biases.
  __device__ __forceinline__ static uint2 decoded(std::uint32_t codes) {
    constexpr bool kE4m3 = kCodes == CacheCodes::e4m3;
    constexpr int kShift = kE4m3 ? 4 : 3;
    constexpr std::uint32_t kMagnitude = 0x7F00U >> kShift;
    constexpr std::uint32_t kPower = kE4m3 ? 127 + 120 : 127 + 112;
    constexpr std::uint32_t kPowers = kPower << 7 | kPower << 23;
    const auto pair = [](std::uint32_t high_bytes) {
      const std::uint32_t bits =
          (high_bytes & 0x80008000U) | (high_bytes >> kShift & (kMagnitude | kMagnitude << 16));
      std::uint32_t value;
      asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(value) : "r"(bits), "r"(kPowers));
      return value;
    };
    return {pair(__byte_perm(codes, 0, 0x1404)), pair(__byte_perm(codes, 0, 0x3424))};
  }

  // The tile's codes as they are, without their scales.
  __device__ __forceinline__ void decode(int buffer) {
    constexpr int kWords = kFp8Bytes / 4;
    constexpr int kCodeWords = kMlaLatent / 4;
    static_assert(kMlaRope / 2 == 32, "a lane has one word of an entry's rope part");
    const auto* raw = reinterpret_cast<const std::uint32_t*>(shared_.tiles.raw[buffer]);
    const std::uint32_t kv = shared_address(shared_.tiles.kv[0]);
    const int thread = static_cast<int>(threadIdx.x);
    // A thread has one word of every fourth entry: of two rows 4 apart, the chunk's place differs in one bit.
    const int word = thread % kCodeWords;
    const int first = thread / kCodeWords;
    constexpr int kStep = kConsumers / kCodeWords;
    static_assert(kStep == 4);
    const std::uint32_t* from = raw + first * kWords + word;
    const std::uint32_t even =
        kv + static_cast<std::uint32_t>(word / 16 * kPanelBytes + panel_offset(first, word % 16 / 2) +
                                        word % 2 * 8);
    const std::uint32_t odd = even ^ 64U;
#pragma unroll
    for (int i = 0; i < kMlaTile / kStep; ++i) {
      const uint2 values = decoded(from[i * kStep * kWords]);
      store_shared((i % 2 == 0 ? even : odd) + static_cast<std::uint32_t>(i * kStep * 128), values.x,
                   values.y);
    }
    // And one of the rope part's of every sixteenth.
    const std::uint32_t rope =
        kv + static_cast<std::uint32_t>(kRopePanel * kPanelBytes + panel_offset(warp(), lane() / 4) +
                                        lane() % 4 * 4);
#pragma unroll
    for (int i = 0; i < kMlaTile / kConsumerWarps; ++i) {
      store_shared(rope + static_cast<std::uint32_t>(i * kConsumerWarps * 128),
                   raw[(warp() + i * kConsumerWarps) * kWords + kCodeWords + 1 + lane()]);
    }
    if (thread < kMlaTile) {
      shared_.tiles.scales[thread] = __uint_as_float(raw[thread * kWords + kCodeWords]);
    }
  }

  // What each head's o is multiplied by before the splits are added: the distance to the greatest maximum,
  // and the division by the sum.
  __device__ __forceinline__ void find_factors(int splits) {
    const int head = static_cast<int>(threadIdx.x);
    if (head >= kHeads) return;
    float top = -INFINITY;
    for (int i = 0; i < splits; ++i) top = fmaxf(top, shared_.exchange[i][head].x);
    float sum = 0.0F;
    for (int i = 0; i < splits; ++i) {
      const float2 other = shared_.exchange[i][head];
      if (other.x != -INFINITY) sum += other.y * exp2_approx(other.x - top);
    }
    const float own = shared_.exchange[work_.split][head].x;
    shared_.factor[head] = own == -INFINITY ? 0.0F : exp2_approx(own - top) / sum;
  }

  // Every block gets its part of the columns from every split: [split][head][column].
  __device__ __forceinline__ void send(int splits) {
    const int num_columns = kMlaLatent / splits;
    const int first = warp() * kColumnTiles * 8;  // this warp's columns all go to one block
    const auto to_block = static_cast<std::uint32_t>(first / num_columns);
    const std::uint32_t received = remote_address(shared_address(shared_.tiles.kv[0]), to_block);
    const int head = lane() / 4;
    scale_heads(shared_.factor[head], shared_.factor[head + 8]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = work_.split * kHeads + head + 8 * i;
      const int at = row * (num_columns + kPad) + first % num_columns + lane() % 4 * 2;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        store_remote(received + static_cast<std::uint32_t>((at + 8 * j) * 4), o_[j][2 * i], o_[j][2 * i + 1]);
      }
    }
  }

  __device__ __forceinline__ void add_and_store(int splits) {
    const int num_columns = kMlaLatent / splits;
    const auto* received = reinterpret_cast<const float*>(shared_.tiles.kv[0]);
    const Heads& o = launch_.base.o;
    const int num_vectors = num_columns / 4;
    for (int i = static_cast<int>(threadIdx.x); i < num_vectors * kHeads; i += kConsumers) {
      const int column = i % num_vectors * 4;
      const int head = i / num_vectors;
      float4 sum = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 4
      for (int s = 0; s < splits; ++s) {
        const float4 v =
            *reinterpret_cast<const float4*>(received + (s * kHeads + head) * (num_columns + kPad) + column);
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      if (work_.first_head + head >= launch_.base.num_heads) continue;
      *reinterpret_cast<float4*>(o.data + work_.row * o.row_stride +
                                 (work_.first_head + head) * o.head_stride + work_.split * num_columns +
                                 column) = sum;
    }
  }

  const MlaCluster& launch_;
  const Work& work_;
  Shared<kCodes>& shared_;
  float scale_;
  std::uint32_t q_[kSteps][4];
  float o_[kColumnTiles][4] = {};
  float top_ = -INFINITY;  // of the warp's head, in every lane
  float sum_ = 0.0F;       // of this lane's probabilities
};

}  // namespace nibble::kernels::cuda::mla_cluster
