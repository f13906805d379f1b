// How many clusters of blocks the device runs at once: a cluster's blocks share a GPC, and a GPC's number of
// multiprocessors varies.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {

constexpr int kMaxCluster = 8;  // a cluster of more blocks is not portable

// Of one kernel that is always launched with the same threads and shared memory. Asks once for each size; any
// host thread may.
class FittingClusters {
 public:
  // Of `size` blocks, at least 1. The kernel must have been allowed its shared memory.
  template <class... Parameters>
  int of(int size, void (*kernel)(Parameters...), int threads, int shared_bytes) {
    std::atomic<int>& known = known_[static_cast<std::size_t>(size)];
    if (const int clusters = known.load(std::memory_order_relaxed); clusters > 0) return clusters;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(size));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "cudaOccupancyMaxActiveClusters");
    if (clusters < 1) clusters = 1;
    known.store(clusters, std::memory_order_relaxed);
    return clusters;
  }

 private:
  std::array<std::atomic<int>, kMaxCluster + 1> known_{};
};

}  // namespace nibble::kernels::cuda
