// Thread-block clusters: barriers of all their threads, and access to the other blocks' shared memory.
#pragma once

#include <cstdint>

namespace nibble::kernels::cuda {

// Every thread of the cluster arrives, then waits; writes before the one are seen after the other.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address of the same variable in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ std::uint32_t remote_address(std::uint32_t address, std::uint32_t rank) {
  std::uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

__device__ __forceinline__ void store_remote(std::uint32_t remote, float x, float y) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(remote), "f"(x), "f"(y) : "memory");
}

}  // namespace nibble::kernels::cuda
