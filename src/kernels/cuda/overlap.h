// Launching a kernel before its predecessor in the stream has ended (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

#include <array>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

// How a grid's blocks belong together.
struct Together {
  int cluster = 1;        // neighbouring blocks that form a cluster
  bool resident = false;  // all blocks run at once, as a grid_barrier.cuh needs, or the launch fails
};

// The kernel must call cudaGridDependencySynchronize before it touches memory that others write or read.
template <class... Parameters, class... Arguments>
void launch_overlapped(void (*kernel)(Parameters...), dim3 grid, Together together, int threads,
                       int shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  std::array<cudaLaunchAttribute, 3> attributes{};
  unsigned count = 0;
  attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  if (together.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(together.cluster), 1, 1};
  }
  if (together.resident) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count++].val.cooperative = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes.data();
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

template <class... Parameters, class... Arguments>
void launch_overlapped(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                       cudaStream_t stream, const Arguments&... arguments) {
  launch_overlapped(kernel, grid, Together{}, threads, shared_bytes, stream, arguments...);
}

}  // namespace nibble::kernels::cuda
