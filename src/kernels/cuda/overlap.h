// Launching a kernel before its predecessor in the stream has ended (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

#include <array>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

// The kernel must call cudaGridDependencySynchronize before it touches memory that others write or read.
// `cluster` neighbouring blocks form a cluster.
template <class... Parameters, class... Arguments>
void launch_overlapped_clusters(void (*kernel)(Parameters...), dim3 grid, int cluster, int threads,
                                int shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  std::array<cudaLaunchAttribute, 2> attributes{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes.data();
  config.numAttrs = cluster > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

template <class... Parameters, class... Arguments>
void launch_overlapped(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                       cudaStream_t stream, const Arguments&... arguments) {
  launch_overlapped_clusters(kernel, grid, 1, threads, shared_bytes, stream, arguments...);
}

}  // namespace nibble::kernels::cuda
