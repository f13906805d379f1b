// Absorbed attention of 512 + 64 values for few query rows; docs/kernels/mla_decode.md has the reasons.
//
// A block takes 16 heads of one query row and a share of the entries it sees; the blocks of a cluster, which
// have the other shares, add their results through one another's shared memory.
#include "kernels/cuda/attention/mla_cluster.h"

#include <algorithm>
#include <climits>

#include "kernels/cuda/attention/mla_cluster_block.cuh"
#include "kernels/cuda/attention/mla_cluster_consumer.cuh"
#include "kernels/cuda/check.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

using namespace mla_cluster;

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    mla_cluster_kernel(const __grid_constant__ MlaCluster launch, const __grid_constant__ CUtensorMap map) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared<kCodes>*>(raw + (1024U - (shared_address(raw) & 1023U)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kBuffers; ++i) {
      mbarrier_init(shared_address(&shared.full[i]), 1);
      mbarrier_init(shared_address(&shared.empty[i]), kConsumerWarps);
    }
    mbarrier_init_fence();
    if constexpr (!kIsFp8<kCodes>) prefetch_map(map);
  }
  __syncthreads();
  // No block may write to another one that has not begun.
  cluster_arrive();
  Work work = work_of_block(launch);
  wait_for_earlier_kernels();
  let_next_kernel_start();
  if (threadIdx.x >= kConsumers) {
    find_sequence(launch, work);
    cluster_wait();
    load_tiles(launch, map, work, shared);
    return;
  }
  Consumer<kCodes> consumer(launch, work, shared);
  consumer.load_queries();
  find_sequence(launch, work);
  cluster_wait();
  consumer.run(work.num_visible, work.tile_begin, work.tile_end);
  consumer.merge();
}

constexpr int kBoxRowsFp8 = 4;  // whose bytes are a multiple of 16

int box_rows_of(int page_size) {
  int rows = kMlaTile;
  while (page_size % rows != 0) rows /= 2;
  return rows;
}

bool aligned(const Heads& t) {
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.row_stride % 4 == 0 &&
         t.head_stride % 4 == 0;
}

template <CacheCodes kCodes>
struct Kernel {
  static constexpr int kBytes = static_cast<int>(sizeof(Shared<kCodes>)) + 1024;
  static_assert(kBytes <= 227 * 1024);
  static constexpr auto kFunction = mla_cluster_kernel<kCodes>;

  static void allow_shared() {
    check(cudaFuncSetAttribute(kFunction, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
          "shared memory of mla_absorbed");
  }

  // Clusters of `splits` blocks that run at once.
  static int capacity(int splits) {
    static FittingClusters clusters;
    allow_shared();
    return clusters.of(splits, kFunction, kThreads, kBytes);
  }

  static void launch(cudaStream_t stream, const MlaCluster& launch, const CUtensorMap& map) {
    allow_shared();
    const std::int64_t blocks = launch.base.num_rows * launch.num_groups * launch.splits;
    launch_overlapped(kFunction, dim3(static_cast<unsigned>(blocks)), Together{.cluster = launch.splits},
                      kThreads, kBytes, stream, launch, map);
  }
};

// Calls f with the kernel for a cache type.
template <class F>
auto with_kernel(CacheCodes codes, F&& f) {
  if (codes == CacheCodes::e4m3) return f(Kernel<CacheCodes::e4m3>{});
  if (codes == CacheCodes::e5m2) return f(Kernel<CacheCodes::e5m2>{});
  return f(Kernel<CacheCodes::bf16>{});
}

// Where this kernel was faster than mla_fast on an H100 (docs/kernels/mla_decode.md has the figures). Its
// cuts do not follow the lengths as mla_fast's do, hence no regime of very long sequences.
struct Regime {
  bool fp8;
  std::int64_t max_waves;   // of clusters
  std::int64_t max_groups;  // of heads
  std::int64_t min_blocks;
  std::int64_t max_tiles;  // of a block
};
constexpr std::int64_t kAny = INT_MAX;
constexpr Regime kRegimes[] = {
    {.fp8 = false, .max_waves = 1, .max_groups = kAny, .min_blocks = 0, .max_tiles = 16},
    {.fp8 = false, .max_waves = 1, .max_groups = kAny, .min_blocks = 120, .max_tiles = 32},
    {.fp8 = false, .max_waves = 1, .max_groups = 1, .min_blocks = 60, .max_tiles = 32},
    {.fp8 = false, .max_waves = 2, .max_groups = kAny, .min_blocks = 0, .max_tiles = 16},
    {.fp8 = true, .max_waves = 1, .max_groups = kAny, .min_blocks = 0, .max_tiles = 8},
    {.fp8 = true, .max_waves = 1, .max_groups = kAny, .min_blocks = 120, .max_tiles = 16},
    {.fp8 = true, .max_waves = 1, .max_groups = 1, .min_blocks = 60, .max_tiles = 64},
    {.fp8 = true, .max_waves = 2, .max_groups = kAny, .min_blocks = 0, .max_tiles = 4},
};

}  // namespace

bool mla_cluster_supports(const MlaLaunch& launch) {
  if (launch.d_latent != kMlaLatent || launch.d_rope != kMlaRope || !(launch.scale > 0.0F)) return false;
  if (!aligned(launch.q_latent) || !aligned(launch.q_pe) || !aligned(launch.o)) return false;
  if (reinterpret_cast<std::uintptr_t>(launch.cache.data) % 16 != 0 || launch.num_slots > INT_MAX)
    return false;
  if (launch.cache.codes == CacheCodes::f32) return false;
  if (launch.cache.codes == CacheCodes::bf16) {
    return launch.cache.stride % 8 == 0 && box_rows_of(launch.page_size) >= 8;
  }
  return launch.cache.stride == kFp8Bytes && box_rows_of(launch.page_size) >= kBoxRowsFp8;
}

std::optional<int> choose_mla_splits(const MlaLaunch& launch) {
  if (!mla_cluster_supports(launch)) return std::nullopt;
  const std::int64_t num_groups = (launch.num_heads + kHeads - 1) / kHeads;
  const std::int64_t units = launch.num_rows * num_groups;
  // No sequence is longer; the lengths themselves are known on the device only.
  const std::int64_t longest = (std::int64_t{launch.max_pages} * launch.page_size + kMlaTile - 1) / kMlaTile;
  return with_kernel(launch.cache.codes, [&](auto kernel) -> std::optional<int> {
    using K = decltype(kernel);
    // Few heads: mla_fast takes several tokens of a sequence through its entries at once.
    if (launch.num_heads < kMlaRows && launch.num_rows > launch.num_seqs &&
        units > K::capacity(kMlaMaxSplits)) {
      return std::nullopt;
    }
    int splits = 1;
    while (splits < kMlaMaxSplits && splits < longest && units <= K::capacity(2 * splits)) splits *= 2;
    const std::int64_t at_once = std::int64_t{K::capacity(splits)};
    const std::int64_t waves = (units + at_once - 1) / at_once;
    const bool fp8 = launch.cache.codes != CacheCodes::bf16;
    for (const Regime& r : kRegimes) {
      if (r.fp8 == fp8 && waves <= r.max_waves && num_groups <= r.max_groups &&
          units * splits >= r.min_blocks && longest <= r.max_tiles * splits) {
        return splits;
      }
    }
    return std::nullopt;
  });
}

void launch_mla_cluster(cudaStream_t stream, const MlaLaunch& launch, int splits) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  const MlaCluster cluster{.base = launch,
                           .splits = splits,
                           .num_groups = (launch.num_heads + kHeads - 1) / kHeads,
                           .box_rows = box_rows_of(launch.page_size)};
  const CUtensorMap map =
      launch.cache.codes == CacheCodes::bf16
          ? bf16_boxes(launch.cache.data, launch.num_slots, kMlaWidth, launch.cache.stride, cluster.box_rows)
          : CUtensorMap{};
  with_kernel(launch.cache.codes, [&](auto kernel) {
    decltype(kernel)::launch(stream, cluster, map);
    return 0;
  });
}

}  // namespace nibble::kernels::cuda
