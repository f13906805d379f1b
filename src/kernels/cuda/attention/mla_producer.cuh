// Brings tiles of the cache to shared memory, ahead of the consumers.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/attention/mla_block.cuh"
#include "kernels/cuda/elementwise/cache_codes.cuh"

namespace nibble::kernels::cuda {

// The bf16 cache, by two warps, one for each half of a buffer: lane i copies the i-th box of a tile, whose
// slot it looked up a tile ahead.
class Producer {
 public:
  __device__ __forceinline__ Producer(const MlaFast& launch, const CUtensorMap& map, Shared& shared,
                                      std::uint32_t half)
      : launch_(launch),
        map_(map),
        shared_(shared),
        half_(half),
        kv_(shared_address(shared.kv)),
        full_(shared_address(shared.full)),
        empty_(shared_address(shared.empty)) {}

  __device__ __forceinline__ void run(const Schedule& schedule) {
    const int part = static_cast<int>(blockIdx.x) / launch_.num_groups;
    const int end = schedule.cut(part + 1);
    std::uint32_t phases = 3;  // bit b: of buffer b; a fresh barrier passes a wait for phase 1
    int num_tiles = 0;
    Piece piece;
    for (int position = schedule.cut(part); schedule.next(position, end, piece);) {
      int next = locate(piece, piece.tile_begin);
#pragma unroll 1
      for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) {
        if (half_ == 0 && lane() == 0) shared_.num_tiles_asked = ++num_tiles;
        const int slot = next;
        next = locate(piece, tile + 1);
        const auto buffer = static_cast<std::uint32_t>(tile - piece.tile_begin) % 2;
        const std::uint32_t phase = phases >> buffer & 1U;
        phases ^= 1U << buffer;
        mbarrier_wait(empty_ + (2 * buffer + half_) * 8, phase);
#pragma unroll
        for (std::uint32_t i = 0; i < kHalfChunks; ++i) load_panels<2>(buffer, half_ * kHalfChunks + i, slot);
        if (half_ != buffer) load_panels<1>(buffer, kChunks - 1, slot);
      }
    }
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  // First cache slot of this lane's box of a tile; -1 if there is none.
  __device__ __forceinline__ int locate(const Piece& piece, int tile) const {
    const MlaLaunch& base = launch_.base;
    const int entry = tile * kMlaTile + lane() * launch_.box_rows;
    if (tile >= piece.tile_end || entry >= min((tile + 1) * kMlaTile, piece.length())) return -1;
    const int page = entry / base.page_size;
    return base.page_tables[static_cast<std::int64_t>(piece.seq) * base.max_pages + page] * base.page_size +
           (entry - page * base.page_size);
  }

  template <int kCount>
  __device__ __forceinline__ void load_panels(std::uint32_t buffer, std::uint32_t chunk, int slot) const {
    const std::uint32_t full = full_ + (buffer * kChunks + chunk) * 8;
    const std::uint32_t box_bytes = static_cast<std::uint32_t>(launch_.box_rows) * 128;
    const auto num_boxes = static_cast<std::uint32_t>(__popc(__ballot_sync(0xFFFFFFFFU, slot >= 0)));
    if (lane() == 0) mbarrier_expect(full, kCount * num_boxes * box_bytes);
    __syncwarp();
    if (slot < 0) return;
    const std::uint32_t to = kv_ + buffer * kTileBytes + static_cast<std::uint32_t>(lane()) * box_bytes;
#pragma unroll
    for (std::uint32_t i = 0; i < kCount; ++i) {
      const std::uint32_t panel = 2 * chunk + i;
      copy_box(to + panel * kPanelBytes, map_, static_cast<int>(panel) * kPanelColumns, slot, full,
               kEvictFirst);
    }
  }

  const MlaFast& launch_;
  const CUtensorMap& map_;
  Shared& shared_;
  std::uint32_t half_;
  std::uint32_t kv_;
  std::uint32_t full_;
  std::uint32_t empty_;
};

// Brings the queries of the part's later pieces to L2; one warp. Each time near the end of the piece before:
// at its beginning they would be in the way of what is waited for.
__device__ inline void prefetch_queries(const MlaFast& launch, const Schedule& schedule,
                                        const Shared& shared) {
  constexpr int kTilesAhead = 8;
  const int part = static_cast<int>(blockIdx.x) / launch.num_groups;
  const int end = schedule.cut(part + 1);
  int position = schedule.cut(part);
  int num_tiles = 0;  // of the pieces before
  Piece piece;
  while (schedule.next(position, end, piece)) {
    const int num_rows = num_tiles == 0 ? 0 : num_rows_of(launch, piece);
    while (shared.num_tiles_asked < num_tiles - kTilesAhead) __nanosleep(500);
    num_tiles += piece.tile_end - piece.tile_begin;
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

// The FP8 cache: its entries have no alignment that bulk copies could use, and are decoded on the way. A warp
// takes every fourth entry of a tile, one word (four codes) a lane at a time.
template <CacheCodes kCodes>
class Decoder {
 public:
  __device__ __forceinline__ Decoder(const MlaFast& launch, Shared& shared)
      : launch_(launch), shared_(shared) {}

  __device__ __forceinline__ void run(const Schedule& schedule) {
    const int part = static_cast<int>(blockIdx.x) / launch_.num_groups;
    const int end = schedule.cut(part + 1);
    std::uint32_t phases = 3;  // bit b: of buffer b; a fresh barrier passes a wait for phase 1
    Piece piece;
    for (int position = schedule.cut(part); schedule.next(position, end, piece);) {
      int entries = locate(piece, piece.tile_begin);
      int next = locate(piece, piece.tile_begin + 1);
      float scales = scale_of(entries);
      fetch(entries, 0, first_);
      fetch(entries, 1, second_);
      for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) {
        const int buffer = (tile - piece.tile_begin) % 2;
        const int after_next = locate(piece, tile + 2);
        mbarrier_wait(shared_address(&shared_.empty[buffer][0]), phases >> buffer & 1U);
        mbarrier_wait(shared_address(&shared_.empty[buffer][1]), phases >> buffer & 1U);
        phases ^= 1U << buffer;
        const std::uint32_t to = shared_address(shared_.kv[buffer]);
        // Not unrolled: the addresses of all batches at once would not fit in the registers.
#pragma unroll 1
        for (int batch = 0; batch < kBatches; batch += 2) {
          // Two batches are always under way, also over the border of two tiles.
          const bool last = batch + 2 == kBatches;
          const int source = last ? next : entries;
          const int ahead = last ? 0 : batch + 2;
          decode(batch, first_, scales, to);
          fetch(source, ahead, first_);
          decode(batch + 1, second_, scales, to);
          fetch(source, ahead + 1, second_);
        }
        prefetch(after_next);
        entries = next;
        next = after_next;
        scales = scale_of(entries);
        fence_async_proxy();
        __syncwarp();
        if (lane() == 0) {
          for (int chunk = 0; chunk < kChunks; ++chunk)
            mbarrier_arrive(shared_address(&shared_.full[buffer][chunk]));
        }
      }
    }
  }

 private:
  static constexpr int kWarpEntries = kMlaTile / kProducerWarps;
  static constexpr int kBatch = 4;  // entries
  static constexpr int kBatches = kWarpEntries / kBatch;
  static_assert(kBatches % 2 == 0, "two batches are decoded a turn");

  struct Batch {
    std::uint32_t codes[kBatch][4];
    std::uint32_t rope[kBatch];
  };

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ __forceinline__ static int warp() { return static_cast<int>(threadIdx.x) / 32 % kProducerWarps; }

  // The slot of entry `lane` of this warp's 16 of a tile; -1 past the piece.
  __device__ __forceinline__ int locate(const Piece& piece, int tile) const {
    const MlaLaunch& base = launch_.base;
    const int entry = tile * kMlaTile + warp() * kWarpEntries + lane() % kWarpEntries;
    if (tile >= piece.tile_end || entry >= piece.length()) return -1;
    const int page =
        base.page_tables[static_cast<std::int64_t>(piece.seq) * base.max_pages + entry / base.page_size];
    return page * base.page_size + entry % base.page_size;
  }

  __device__ __forceinline__ const std::uint8_t* address_of(int slot) const {
    return static_cast<const std::uint8_t*>(launch_.base.cache.data) + slot * launch_.base.cache.stride;
  }

  __device__ __forceinline__ float scale_of(int slot) const {
    return slot < 0 ? 0.0F : *reinterpret_cast<const float*>(address_of(slot) + fp8_scale_at(kMlaLatent));
  }

  // Brings this warp's entries of a later tile to L2, where they are one stretch of whole 16 bytes.
  __device__ __forceinline__ void prefetch(int slots) const {
    const MlaLaunch& base = launch_.base;
    if (lane() != 0 || slots < 0 || base.page_size % kWarpEntries != 0) return;
    const std::uint8_t* from = address_of(slots);
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) return;
    prefetch_global(from, static_cast<std::uint32_t>(kWarpEntries * base.cache.stride));
  }

  // Entries that are not there are zeros.
  __device__ __forceinline__ void fetch(int slots, int batch, Batch& to) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int slot = __shfl_sync(0xFFFFFFFFU, slots, batch * kBatch + i);
      const bool present = slot >= 0;
      const auto* entry = reinterpret_cast<const std::uint32_t*>(address_of(max(slot, 0)));
#pragma unroll
      for (int j = 0; j < 4; ++j) to.codes[i][j] = present ? __ldg(entry + j * 32 + lane()) : 0U;
      to.rope[i] = present ? __ldg(entry + fp8_rope_at(kMlaLatent) / 4 + lane()) : 0U;
    }
  }

  __device__ __forceinline__ void decode(int batch, const Batch& from, float scales,
                                         std::uint32_t tile) const {
    constexpr auto kKind = kCodes == CacheCodes::e4m3 ? __NV_E4M3 : __NV_E5M2;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = warp() * kWarpEntries + batch * kBatch + i;
      const float scale = __shfl_sync(0xFFFFFFFFU, scales, batch * kBatch + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t word = from.codes[i][j];
        const auto low = __half22float2(
            __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word), kKind)));
        const auto high = __half22float2(
            __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word >> 16), kKind)));
        const auto to =
            tile + static_cast<std::uint32_t>((2 * j + lane() / 16) * kPanelBytes +
                                              panel_offset(row, lane() % 16 / 2) + lane() % 2 * 8);
        store_shared(to, bf16_pair(low.x * scale, low.y * scale), bf16_pair(high.x * scale, high.y * scale));
      }
      store_shared(tile + static_cast<std::uint32_t>(kRopePanel * kPanelBytes +
                                                     panel_offset(row, lane() / 4) + lane() % 4 * 4),
                   from.rope[i]);
    }
  }

  const MlaFast& launch_;
  Shared& shared_;
  Batch first_;
  Batch second_;
};

}  // namespace nibble::kernels::cuda
