// A cluster of blocks: its barrier, and the way into each other's shared memory.
#pragma once

#include <cstdint>

namespace nibble::kernels::cuda {

__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// Of all threads of the cluster; what they wrote is visible behind it.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// The same place in the shared memory of block `rank`. That block must not end before it was used.
template <class T>
__device__ __forceinline__ const T* of_block(const T* shared, int rank) {
  std::uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<std::uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<const T*>(there);
}

}  // namespace nibble::kernels::cuda
