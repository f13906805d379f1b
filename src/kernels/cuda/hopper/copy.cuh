// Hopper's copy engine: bulk copies to shared memory that complete on an mbarrier, tensor maps, cache hints.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nibble::kernels::cuda {

// What is read once should leave L2 first.
constexpr std::uint64_t kEvictFirst = 0x12F0000000000000ULL;
constexpr std::uint64_t kEvictNormal = 0x1000000000000000ULL;

// Copies `bytes` (a multiple of 16, both ends aligned to 16) to shared memory and counts them on `barrier`.
__device__ __forceinline__ void bulk_copy(std::uint32_t to, const void* from, std::uint32_t bytes,
                                          std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void bulk_copy(std::uint32_t to, const void* from, std::uint32_t bytes,
                                          std::uint32_t barrier, std::uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(cache_policy)
      : "memory");
}

// Copies a box of the map at (column, row) to shared memory and counts its bytes on the barrier.
__device__ __forceinline__ void copy_box(std::uint32_t to, const CUtensorMap& map, int column, int row,
                                         std::uint32_t barrier, std::uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(cache_policy)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies 16 aligned bytes to shared memory, beside this thread's work.
__device__ __forceinline__ void copy_piece(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Arrives on `barrier` once the pieces this thread has asked for are there.
__device__ __forceinline__ void arrive_with_pieces(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Starts bringing global memory to the L2 cache; address and size are multiples of 16.
__device__ __forceinline__ void prefetch_global(const void* from, std::uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

}  // namespace nibble::kernels::cuda
