// Absorbed attention of 512 + 64 values for few query rows: clusters of blocks share a row's entries.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "kernels/cuda/attention/attention.h"

namespace nibble::kernels::cuda {

constexpr int kMlaMaxSplits = 8;  // a cluster of more blocks is not portable

// How a launch is cut: every query row into groups of heads, their entries among the blocks of a cluster.
struct MlaClusterShape {
  std::int32_t heads;   // of a block: 16, or 32 for a bf16 cache
  std::int32_t splits;  // a power of two up to kMlaMaxSplits
};

struct MlaCluster {
  MlaLaunch base;
  MlaClusterShape shape;
  std::int32_t num_groups;  // of shape.heads heads
  std::int32_t box_rows;    // entries one copy brings: they lie in one page
};

// Whether the kernel does this launch at all: shape, type, alignment.
bool mla_cluster_supports(const MlaLaunch& launch);

// The cut it would do this launch with; none where mla_fast does better.
std::optional<MlaClusterShape> choose_mla_cluster(const MlaLaunch& launch, int num_sms);

// Clusters of a shape that run at once on the current device.
int mla_cluster_capacity(CacheCodes codes, const MlaClusterShape& shape);

void launch_mla_cluster(cudaStream_t stream, const MlaLaunch& launch, const MlaClusterShape& shape);

}  // namespace nibble::kernels::cuda
