// Launching a kernel before its predecessor in the stream has ended (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

// The kernel must call cudaGridDependencySynchronize before it touches memory that others write or read.
// `cluster` blocks that follow one another along x form a cluster.
template <class... Parameters, class... Arguments>
void launch_overlapped_clusters(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                                int cluster, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

template <class... Parameters, class... Arguments>
void launch_overlapped(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                       cudaStream_t stream, const Arguments&... arguments) {
  launch_overlapped_clusters(kernel, grid, threads, shared_bytes, 1, stream, arguments...);
}

}  // namespace nibble::kernels::cuda
