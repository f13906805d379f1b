// The device's half of overlap.h.
#pragma once

namespace nibble::kernels::cuda {

// First of all in a kernel that is launched overlapped: lets the kernel behind it be made ready, then waits
// until the one in front has finished and its results can be read.
__device__ __forceinline__ void begin_overlapped() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

}  // namespace nibble::kernels::cuda
