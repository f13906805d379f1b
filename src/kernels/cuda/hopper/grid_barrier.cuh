// A barrier of all blocks of a grid, which must all be resident: launched as Together::resident (overlap.h).
#pragma once

#include <cstdint>

namespace nibble::kernels::cuda {

// By one thread of every block. What the thread, and those it has synchronised with, wrote before is seen by
// all after it. `state` is zero before its first use and needs no clearing between uses: the blocks together
// add 2^31, so that its top bit turns when the last one comes.
__device__ __forceinline__ void grid_barrier(std::uint32_t* state) {
  constexpr std::uint32_t kTop = 0x80000000U;
  const std::uint32_t add = blockIdx.x == 0 ? kTop - (gridDim.x - 1) : 1;
  __threadfence();
  const std::uint32_t before = atomicAdd(state, add);
  std::uint32_t now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(state) : "memory");
  } while (((before ^ now) & kTop) == 0);
}

}  // namespace nibble::kernels::cuda
