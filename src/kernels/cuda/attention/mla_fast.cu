// Absorbed attention over a bf16 cache of 512 + 64 values; docs/kernels/mla_decode.md has the budget and the
// reasons.
//
// A block holds 64 query rows: q in shared memory, o [64 x 512] in the registers of two warpgroups, 256
// columns each. Tiles of 64 entries alternate between two buffers. Warpgroup w computes the scores of the
// tiles in buffer w; both add the probabilities of both tiles times their half of the values. Two producer
// warps fill the buffers by bulk copies.
//
// Probabilities replace the tile's rope columns (panel 8), which nobody needs once the scores are there.
#include <climits>
#include <cstdint>

#include "kernels/cuda/attention/mla_block.cuh"
#include "kernels/cuda/attention/mla_consumer.cuh"
#include "kernels/cuda/attention/mla_producer.cuh"
#include "kernels/cuda/check.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

// Rows that see nothing: of empty sequences, and past the last sequence.
__device__ void mark_empty_rows(const MlaFast& launch) {
  const MlaLaunch& base = launch.base;
  const int first = base.cu_seqlens_q[0];
  const int thread = static_cast<int>(threadIdx.x);
  for (int s = thread; s < base.num_seqs; s += kThreads) {
    const int begin = base.cu_seqlens_q[s];
    const int end = base.cu_seqlens_q[s + 1];
    if (base.seq_lens[s] >= end - begin) continue;
    for (int row = begin; row < end; ++row) launch.splits[row - first] = {0, 0, 0};
  }
  for (std::int64_t row = base.cu_seqlens_q[base.num_seqs] - first + thread; row < base.num_rows;
       row += kThreads) {
    launch.splits[row] = {0, 0, 0};
  }
}

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    mla_fast_kernel(const __grid_constant__ MlaFast launch, const __grid_constant__ CUtensorMap map) {
  constexpr bool kBulk = kCodes == CacheCodes::bf16;
  // Registers of a thread: 168 at the start, then moved from the producer's warpgroup to the consumers'.
  constexpr int kConsumerRegisters = kBulk ? 232 : 216;
  constexpr int kProducerRegisters = kBulk ? 40 : 72;
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared*>(raw + (1024U - (shared_address(raw) & 1023U)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i)
      mbarrier_init(shared_address(&shared.empty[i / 2][i % 2]), kGroupThreads / 32);
    for (int i = 0; i < 2 * kChunks; ++i) {
      mbarrier_init(shared_address(&shared.full[i / kChunks][i % kChunks]), kBulk ? 1 : kProducerWarps);
    }
    for (int i = 0; i < 2; ++i) mbarrier_init(shared_address(&shared.ready[i]), kGroupThreads / 32);
    shared.num_tiles_asked = 0;
    mbarrier_init_fence();
    if constexpr (kBulk) prefetch_map(map);
  }
  wait_for_earlier_kernels();
  if (blockIdx.x == 0) mark_empty_rows(launch);
  Schedule schedule;
  schedule.build(launch, static_cast<int>(gridDim.x) / launch.num_groups, shared.schedule);
  if (static_cast<int>(blockIdx.x) / launch.num_groups >= schedule.num_parts()) return;
  if (threadIdx.x < kGroupThreads) {
    raise_registers<kConsumerRegisters>();
    Consumer<0>(launch, shared).run(schedule);
  } else if (threadIdx.x < kConsumers) {
    raise_registers<kConsumerRegisters>();
    Consumer<1>(launch, shared).run(schedule);
  } else {
    lower_registers<kProducerRegisters>();
    if constexpr (!kBulk) {
      Decoder<kCodes>(launch, shared).run(schedule);
    } else if (threadIdx.x < kConsumers + 64) {
      Producer(launch, map, shared, threadIdx.x / 32 % 2).run(schedule);
    } else if (threadIdx.x < kConsumers + 96) {
      prefetch_queries(launch, schedule, shared);
    }
  }
}

struct Sizes {
  int num_groups;
  int num_parts;
  std::size_t slots;
};

Sizes sizes_of(const MlaLaunch& launch, int num_sms) {
  const int num_groups = (launch.num_heads + kMlaRows - 1) / kMlaRows;
  const int num_parts = num_sms / num_groups > 0 ? num_sms / num_groups : 1;
  return {.num_groups = num_groups,
          .num_parts = num_parts,
          .slots = std::size_t{2} * static_cast<std::size_t>(num_parts * num_groups)};
}

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
void launch_codes(cudaStream_t stream, const MlaFast& launch, const Sizes& sizes, const CUtensorMap& map) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared)) + 1024;
  check(cudaFuncSetAttribute(mla_fast_kernel<kCodes>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory of mla_absorbed");
  launch_overlapped(mla_fast_kernel<kCodes>, dim3(static_cast<unsigned>(sizes.num_parts * sizes.num_groups)),
                    kThreads, kBytes, stream, launch, map);
}

}  // namespace

bool mla_fast_supports(const MlaLaunch& launch) {
  constexpr std::int64_t kMaxRows = 65536;  // positions of the schedule are 32 bits
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 20;
  if (launch.cache.codes == CacheCodes::f32) return false;
  const bool bulk = launch.cache.codes == CacheCodes::bf16;
  const int alignment = bulk ? 16 : 4;
  return launch.d_latent == kMlaLatent && launch.d_rope == kMlaRope && launch.scale > 0.0F &&
         launch.num_seqs <= kMlaMaxSeqs && launch.num_rows <= kMaxRows &&
         std::int64_t{launch.max_pages} * launch.page_size <= kMaxLength &&
         (!bulk || box_rows_of(launch.page_size) >= 8) &&
         reinterpret_cast<std::uintptr_t>(launch.cache.data) % alignment == 0 &&
         launch.cache.stride % (bulk ? 8 : 4) == 0 && launch.num_slots <= INT_MAX &&
         aligned(launch.q_latent) && aligned(launch.q_pe) && aligned(launch.o);
}

std::size_t mla_fast_scratch(const MlaLaunch& launch, int num_sms) {
  return sizes_of(launch, num_sms).slots * kMlaRows * (kMlaLatent * sizeof(float) + sizeof(float2)) +
         static_cast<std::size_t>(launch.num_rows) * sizeof(MlaSplits);
}

void launch_mla_fast(cudaStream_t stream, const MlaLaunch& launch, int num_sms, std::byte* scratch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  const Sizes sizes = sizes_of(launch, num_sms);
  MlaFast fast{.base = launch,
               .tokens_per_unit = launch.num_heads < kMlaRows ? kMlaRows / launch.num_heads : 1,
               .num_groups = sizes.num_groups,
               .box_rows = box_rows_of(launch.page_size)};
  fast.partial_o = reinterpret_cast<float*>(scratch);
  scratch += sizes.slots * kMlaRows * kMlaLatent * sizeof(float);
  fast.partial_ml = reinterpret_cast<float2*>(scratch);
  scratch += sizes.slots * kMlaRows * sizeof(float2);
  fast.splits = reinterpret_cast<MlaSplits*>(scratch);
  if (launch.cache.codes == CacheCodes::bf16) {
    launch_codes<CacheCodes::bf16>(
        stream, fast, sizes,
        bf16_boxes(launch.cache.data, launch.num_slots, kMlaWidth, launch.cache.stride, fast.box_rows));
  } else if (launch.cache.codes == CacheCodes::e4m3) {
    launch_codes<CacheCodes::e4m3>(stream, fast, sizes, {});
  } else {
    launch_codes<CacheCodes::e5m2>(stream, fast, sizes, {});
  }
  launch_mla_combine(stream, fast);
}

}  // namespace nibble::kernels::cuda
