// Absorbed attention of 512 + 64 values for few query rows: clusters of blocks share a row's entries.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/clusters.h"

namespace nibble::kernels::cuda {

constexpr int kMlaMaxSplits = kMaxCluster;

// Every query row is cut into groups of 16 heads, and the entries it sees are shared out among `splits`
// blocks, which form a cluster and add up their results.
struct MlaCluster {
  MlaLaunch base;
  std::int32_t splits;      // a power of two up to kMlaMaxSplits
  std::int32_t num_groups;  // of 16 heads
  std::int32_t box_rows;    // entries one copy brings: they lie in one page
};

// Whether the kernel does this launch at all: shape, type, alignment.
bool mla_cluster_supports(const MlaLaunch& launch);

// The splits it would do this launch with; none where mla_fast does better.
std::optional<int> choose_mla_splits(const MlaLaunch& launch);

void launch_mla_cluster(cudaStream_t stream, const MlaLaunch& launch, int splits);

}  // namespace nibble::kernels::cuda
