// Both attention forms for any shape in float32: one block takes one query row and head through its visible
// entries, 64 at a time, with a running maximum and sum.
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/cache_codes.cuh"
#include "kernels/cuda/elementwise/reduce.cuh"
#include "kernels/cuda/shared_memory.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 64;  // entries

struct Query {
  const float* first;   // values [0, d_first) of the query
  const float* second;  // the d_second values after them
  int d_first;
  int d_second;
};

// entries.select(tile begin, count) is called by all threads before entries.key(j, i) and value(j, c) of
// entry tile begin + j. `buffer` holds d_first + d_second + d_v floats.
template <class Entries>
__device__ void attend(Entries& entries, const Query& query, std::int64_t num_visible, float scale, int d_v,
                       float* o, float* buffer) {
  __shared__ float scores[kTile];
  const int thread = static_cast<int>(threadIdx.x);
  const int d_qk = query.d_first + query.d_second;
  float* q = buffer;
  float* sums = buffer + d_qk;
  for (int i = thread; i < d_qk; i += kThreads) {
    q[i] = i < query.d_first ? query.first[i] : query.second[i - query.d_first];
  }
  for (int c = thread; c < d_v; c += kThreads) sums[c] = 0.0F;
  float top = -INFINITY;
  float total = 0.0F;
  for (std::int64_t begin = 0; begin < num_visible; begin += kTile) {
    const int count = static_cast<int>(min(static_cast<std::int64_t>(kTile), num_visible - begin));
    entries.select(begin, count);
    __syncthreads();
    for (int j = thread / 32; j < count; j += kWarps) {
      float sum = 0.0F;
      for (int i = thread % 32; i < d_qk; i += 32) sum += q[i] * entries.key(j, i);
      sum = warp_reduce(sum, Sum{});
      if (thread % 32 == 0) scores[j] = sum * scale;
    }
    __syncthreads();
    float new_top = top;
    for (int j = 0; j < count; ++j) new_top = fmaxf(new_top, scores[j]);
    __syncthreads();
    if (thread < count) scores[thread] = expf(scores[thread] - new_top);
    __syncthreads();
    const float shrink = expf(top - new_top);
    top = new_top;
    float tile_total = 0.0F;
    for (int j = 0; j < count; ++j) tile_total += scores[j];
    total = total * shrink + tile_total;
    for (int c = thread; c < d_v; c += kThreads) {
      float sum = 0.0F;
      for (int j = 0; j < count; ++j) sum += scores[j] * entries.value(j, c);
      sums[c] = sums[c] * shrink + sum;
    }
    __syncthreads();
  }
  for (int c = thread; c < d_v; c += kThreads) o[c] = num_visible > 0 ? sums[c] / total : 0.0F;
}

template <CacheCodes kCodes>
struct PagedEntries {
  const MlaLaunch& launch;
  const std::int32_t* page_table;
  std::int64_t* slots;  // of the tile, shared

  __device__ void select(std::int64_t begin, int count) {
    const int j = static_cast<int>(threadIdx.x);
    if (j >= count) return;
    const std::int64_t position = begin + j;
    slots[j] = std::int64_t{page_table[position / launch.page_size]} * launch.page_size +
               position % launch.page_size;
  }
  __device__ float key(int j, int i) const {
    return CacheEntry<kCodes>(launch.cache.data, launch.cache.stride, slots[j], launch.d_latent).value(i);
  }
  __device__ float value(int j, int c) const { return key(j, c); }
};

// The sequence of query row `row`, the first of which is row cu_seqlens_q[0]; num_seqs if none.
__device__ int sequence_of(const MlaLaunch& launch, std::int64_t row) {
  const std::int64_t target = launch.cu_seqlens_q[0] + row;
  int low = 0;
  int high = launch.num_seqs;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (launch.cu_seqlens_q[middle + 1] > target) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <CacheCodes kCodes>
__global__ void __launch_bounds__(kThreads) mla_general_kernel(MlaLaunch launch) {
  extern __shared__ float buffer[];
  __shared__ std::int64_t slots[kTile];
  const std::int64_t row = blockIdx.x;
  const std::int64_t head = blockIdx.y;
  const int s = sequence_of(launch, row);
  std::int64_t num_visible = 0;
  if (s < launch.num_seqs) {
    const std::int64_t rows_after = launch.cu_seqlens_q[s + 1] - 1 - (launch.cu_seqlens_q[0] + row);
    num_visible = launch.seq_lens[s] - rows_after;
  }
  PagedEntries<kCodes> entries{.launch = launch,
                               .page_table = launch.page_tables + std::int64_t{s} * launch.max_pages,
                               .slots = slots};
  const Query query{
      .first = launch.q_latent.data + row * launch.q_latent.row_stride + head * launch.q_latent.head_stride,
      .second = launch.q_pe.data + row * launch.q_pe.row_stride + head * launch.q_pe.head_stride,
      .d_first = launch.d_latent,
      .d_second = launch.d_rope};
  float* o = launch.o.data + row * launch.o.row_stride + head * launch.o.head_stride;
  attend(entries, query, num_visible, launch.scale, launch.d_latent, o, buffer);
}

// T: float or bf16.
template <class T>
struct HeadEntries {
  const T* k_nope;
  const float* k_pe;
  const T* v;
  std::int64_t k_nope_stride;
  std::int64_t k_pe_stride;
  std::int64_t v_stride;
  int d_nope;
  std::int64_t begin = 0;

  __device__ void select(std::int64_t first, int) { begin = first; }
  __device__ float key(int j, int i) const {
    const std::int64_t at = begin + j;
    return i < d_nope ? static_cast<float>(k_nope[at * k_nope_stride + i])
                      : k_pe[at * k_pe_stride + i - d_nope];
  }
  __device__ float value(int j, int c) const { return static_cast<float>(v[(begin + j) * v_stride + c]); }
};

template <class T>
__global__ void __launch_bounds__(kThreads) mha_general_kernel(MhaLaunch launch) {
  extern __shared__ float buffer[];
  const std::int64_t row = blockIdx.x;
  const std::int64_t head = blockIdx.y;
  HeadEntries<T> entries{
      .k_nope = static_cast<const T*>(launch.k_nope.data) + head * launch.k_nope.head_stride,
      .k_pe = launch.k_pe.data,
      .v = static_cast<const T*>(launch.v.data) + head * launch.v.head_stride,
      .k_nope_stride = launch.k_nope.row_stride,
      .k_pe_stride = launch.k_pe.stride,
      .v_stride = launch.v.row_stride,
      .d_nope = launch.d_nope};
  const Query query{
      .first = launch.q_nope.data + row * launch.q_nope.row_stride + head * launch.q_nope.head_stride,
      .second = launch.q_pe.data + row * launch.q_pe.row_stride + head * launch.q_pe.head_stride,
      .d_first = launch.d_nope,
      .d_second = launch.d_rope};
  float* o = launch.o.data + row * launch.o.row_stride + head * launch.o.head_stride;
  attend(entries, query, launch.length - launch.num_rows + row + 1, launch.scale, launch.d_v, o, buffer);
}

}  // namespace

void launch_mla_general(cudaStream_t stream, const MlaLaunch& launch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  const dim3 grid(static_cast<unsigned>(launch.num_rows), static_cast<unsigned>(launch.num_heads));
  with_codes(launch.cache.codes, [&](auto codes) {
    const auto kernel = mla_general_kernel<codes.value>;
    allow_all_shared_memory(kernel);
    const std::size_t bytes = static_cast<std::size_t>(2 * launch.d_latent + launch.d_rope) * sizeof(float);
    kernel<<<grid, kThreads, bytes, stream>>>(launch);
  });
  check_launch("mla_absorbed");
}

void launch_mha_general(cudaStream_t stream, const MhaLaunch& launch) {
  if (launch.num_rows == 0 || launch.num_heads == 0) return;
  const dim3 grid(static_cast<unsigned>(launch.num_rows), static_cast<unsigned>(launch.num_heads));
  const auto kernel = launch.is_bf16 ? mha_general_kernel<__nv_bfloat16> : mha_general_kernel<float>;
  allow_all_shared_memory(kernel);
  const std::size_t bytes =
      static_cast<std::size_t>(launch.d_nope + launch.d_rope + launch.d_v) * sizeof(float);
  kernel<<<grid, kThreads, bytes, stream>>>(launch);
  check_launch("mha");
}

}  // namespace nibble::kernels::cuda
