// Stable counting sort of (token, slot) pairs by expert over many blocks: count per chunk, scan over
// chunks and experts, scatter. Ranks inside a chunk come from comparing, so no order depends on timing.
#include "kernels/cuda/moe/route.h"
#include "kernels/cuda/shared_memory.h"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kChunk = 256;
constexpr int kScanThreads = 1024;
constexpr int kWarp = 32;
constexpr unsigned kAll = 0xFFFFFFFFU;

// counts[chunk][expert].
__global__ void __launch_bounds__(kChunk)
    count_kernel(const std::int32_t* ids, int num_slots, int num_experts, std::int32_t* counts) {
  std::int32_t* mine = counts + std::int64_t{blockIdx.x} * num_experts;
  extern __shared__ std::int32_t bins[];
  for (int e = static_cast<int>(threadIdx.x); e < num_experts; e += kChunk) bins[e] = 0;
  __syncthreads();
  const int slot = static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x);
  if (slot < num_slots && ids[slot] >= 0) atomicAdd(&bins[ids[slot]], 1);
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < num_experts; e += kChunk) mine[e] = bins[e];
}

struct Pair {
  int entries;
  int tiles;
};

// Exclusive scan over the block; `total` gets the sum of all.
__device__ Pair block_scan(Pair own, Pair& total) {
  __shared__ Pair warps[kScanThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Pair sum = own;
  for (int d = 1; d < kWarp; d *= 2) {
    const int entries = __shfl_up_sync(kAll, sum.entries, d);
    const int tiles = __shfl_up_sync(kAll, sum.tiles, d);
    if (lane >= d) sum = {sum.entries + entries, sum.tiles + tiles};
  }
  if (lane == kWarp - 1) warps[warp] = sum;
  __syncthreads();
  Pair before{0, 0};
  total = {0, 0};
  for (int w = 0; w < kScanThreads / kWarp; ++w) {
    if (w < warp) before = {before.entries + warps[w].entries, before.tiles + warps[w].tiles};
    total = {total.entries + warps[w].entries, total.tiles + warps[w].tiles};
  }
  __syncthreads();
  return {before.entries + sum.entries - own.entries, before.tiles + sum.tiles - own.tiles};
}

// Entries of each of an expert's tiles but the last: even shares, where tiles are whole runs of kRouteAlign.
__device__ int tile_size(int count, int tile_tokens) {
  if (tile_tokens % kRouteAlign != 0 || count == 0) return tile_tokens;
  const int tiles = (count + tile_tokens - 1) / tile_tokens;
  const int share = (count + tiles - 1) / tiles;
  return (share + kRouteAlign - 1) / kRouteAlign * kRouteAlign;
}

// Turns counts[chunk][expert] into positions of the first entry, and writes tiles and gaps.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(int num_chunks, int num_experts, int tile_tokens, Route route, std::int32_t* counts) {
  Pair done{0, 0};
  for (int first = 0; first < num_experts; first += kScanThreads) {
    const int e = first + static_cast<int>(threadIdx.x);
    int count = 0;
    if (e < num_experts) {
#pragma unroll 8
      for (int c = 0; c < num_chunks; ++c) count += counts[std::int64_t{c} * num_experts + e];
    }
    const int padded = (count + kRouteAlign - 1) / kRouteAlign * kRouteAlign;
    const int size = tile_size(count, tile_tokens);
    Pair total{};
    const Pair before = block_scan({padded, (count + size - 1) / size}, total);
    if (e < num_experts) {
      int at = done.entries + before.entries;
      int tile = done.tiles + before.tiles;
      for (int i = 0; i < count; i += size) {
        route.tiles[tile++] = {e, at + i, min(size, count - i)};
      }
      for (int i = count; i < padded; ++i) route.sorted[at + i] = -1;
#pragma unroll 8
      for (int c = 0; c < num_chunks; ++c) {
        std::int32_t& entry = counts[std::int64_t{c} * num_experts + e];
        const int own = entry;
        entry = at;
        at += own;
      }
    }
    done = {done.entries + total.entries, done.tiles + total.tiles};
  }
  if (threadIdx.x == 0) *route.num_tiles = done.tiles;
}

__global__ void __launch_bounds__(kChunk)
    scatter_kernel(const std::int32_t* ids, const float* weights, int num_slots, int num_experts,
                   const std::int32_t* positions, Route route) {
  __shared__ std::int32_t chunk[kChunk];
  const int thread = static_cast<int>(threadIdx.x);
  const int slot = static_cast<int>(blockIdx.x) * kChunk + thread;
  const std::int32_t id = slot < num_slots ? ids[slot] : -1;
  chunk[thread] = id;
  __syncthreads();
  int position = -1;
  if (id >= 0) {
    int rank = 0;
    for (int i = 0; i < thread; ++i) rank += static_cast<int>(chunk[i] == id);
    position = positions[std::int64_t{blockIdx.x} * num_experts + id] + rank;
    route.sorted[position] = slot;
    if (route.sorted_weights != nullptr) route.sorted_weights[position] = weights[slot];
  }
  if (route.positions != nullptr && slot < num_slots) route.positions[slot] = position;
}

}  // namespace

RouteSizes route_sizes(std::int64_t num_slots, std::int64_t num_experts, std::int32_t tile_tokens) {
  const std::int64_t used = num_experts < num_slots ? num_experts : num_slots;
  const std::int64_t chunks = (num_slots + kChunk - 1) / kChunk;
  return {.max_sorted = num_slots + used * (kRouteAlign - 1),
          .max_tiles = used + num_slots / tile_tokens,
          .work_words = chunks * num_experts};
}

void launch_route(const std::int32_t* ids, const float* weights, std::int32_t num_slots,
                  std::int32_t num_experts, std::int32_t tile_tokens, const Route& route, std::int32_t* work,
                  cudaStream_t stream) {
  const int chunks = (num_slots + kChunk - 1) / kChunk;
  const int bytes = num_experts * static_cast<int>(sizeof(std::int32_t));
  allow_all_shared_memory(count_kernel);
  count_kernel<<<chunks, kChunk, bytes, stream>>>(ids, num_slots, num_experts, work);
  scan_kernel<<<1, kScanThreads, 0, stream>>>(chunks, num_experts, tile_tokens, route, work);
  scatter_kernel<<<chunks, kChunk, 0, stream>>>(ids, weights, num_slots, num_experts, work, route);
}

}  // namespace nibble::kernels::cuda::moe
