// What a block of the tensor-core kernel for absorbed attention keeps in shared memory, and which rows it
// has.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/attention/mla_schedule.cuh"
#include "kernels/cuda/attention/panels.cuh"

namespace nibble::kernels::cuda {

constexpr int kPanels = kMlaWidth / kPanelColumns;        // 9
constexpr int kValuePanels = kMlaLatent / kPanelColumns;  // 8
constexpr int kHalfPanels = kValuePanels / 2;             // those of one warpgroup's half of o
constexpr int kRopePanel = kValuePanels;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kProducerWarps = kGroupThreads / 32;
constexpr int kTileBytes = kPanels * kPanelBytes;

// The running maximum is moved only when it grows by more than this (base 2), so that o is seldom rescaled;
// probabilities stay below 2^8, and their sum carries the same factor.
constexpr float kSlack = 8.0F;

// Named barriers; 0 is __syncthreads. The second group has the number after the first one's.
enum Barrier : int { kBlockBarrier = 1, kGroupBarrier = 2 };

// Each half of a buffer (the panels of one warpgroup's values) is freed on its own; the rope panel, later the
// probabilities, with the half of the warpgroup that reads those probabilities. A buffer is filled in chunks
// of two panels (the last one is the rope panel), so that scores begin before all of it is there.
constexpr int kChunks = (kPanels + 1) / 2;
constexpr int kHalfChunks = kHalfPanels / 2;
struct Shared {
  alignas(1024) std::uint8_t q[kTileBytes];
  alignas(1024) std::uint8_t kv[2][kTileBytes];
  float top[2][kMlaRows];  // [group]: after its last tile
  float sum[2][kMlaRows];
  std::uint64_t full[2][kChunks];  // [buffer]
  std::uint64_t empty[2][2];       // [buffer][half]
  std::uint64_t ready[2];          // [group]: its probabilities
  bool own_first[2];               // [group]: Consumer::own_tile_comes_first
  volatile int num_tiles_asked;    // by the producer, over all pieces
  ScheduleMemory schedule;
};

__device__ inline int num_rows_of(const MlaFast& launch, const Piece& piece) {
  return launch.num_groups > 1 ? min(kMlaRows, launch.base.num_heads - static_cast<int>(blockIdx.x) %
                                                                           launch.num_groups * kMlaRows)
                               : piece.num_tokens * launch.base.num_heads;
}

// Token (within the piece) and head of a block's row.
struct RowOf {
  int token;
  int head;
};
__device__ inline RowOf row_of(const MlaFast& launch, int row) {
  if (launch.num_groups > 1) {
    return {.token = 0, .head = static_cast<int>(blockIdx.x) % launch.num_groups * kMlaRows + row};
  }
  return {.token = row / launch.base.num_heads, .head = row % launch.base.num_heads};
}

}  // namespace nibble::kernels::cuda
