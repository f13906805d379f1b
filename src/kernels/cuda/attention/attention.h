// Launches of the attention kernels. All pointers but those to structs are device pointers; strides are in
// elements. Lengths are read on the device only: a captured launch stays right while sequences grow.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/elementwise/elementwise.h"

namespace nibble::kernels::cuda {

// A float32 tensor [rows, heads, d].
struct Heads {
  float* data;
  std::int64_t row_stride;
  std::int64_t head_stride;
};

// The absorbed form, args/attention.h. Rows of no sequence and of sequences without entries become zero.
struct MlaLaunch {
  Heads q_latent;
  Heads q_pe;
  Heads o;
  CacheEntries cache;
  std::int64_t num_slots;
  const std::int32_t* cu_seqlens_q;
  const std::int32_t* seq_lens;
  const std::int32_t* page_tables;
  std::int64_t num_rows;
  std::int32_t num_seqs;
  std::int32_t num_heads;
  std::int32_t max_pages;
  std::int32_t page_size;
  std::int32_t d_latent;
  std::int32_t d_rope;
  float scale;
};

// Any shape and cache type, float32 arithmetic, one block a row and head.
void launch_mla_general(cudaStream_t stream, const MlaLaunch& launch);

// Rebuilt keys or values [length, heads, d], float32 or bf16.
struct Rebuilt {
  const void* data;
  std::int64_t row_stride;
  std::int64_t head_stride;
};

struct MhaLaunch {
  Heads q_nope;
  Heads q_pe;
  Rebuilt k_nope;
  Rows k_pe;
  Rebuilt v;
  Heads o;
  bool is_bf16;  // k_nope and v
  std::int64_t num_rows;
  std::int64_t length;
  std::int32_t num_heads;
  std::int32_t d_nope;
  std::int32_t d_rope;
  std::int32_t d_v;
  float scale;
};

// Any shape, float32 arithmetic, one block a row and head.
void launch_mha_general(cudaStream_t stream, const MhaLaunch& launch);

// Keys of 128 + 64, values of 128; bf16 operands on tensor cores.
bool mha_fast_takes(std::int64_t d_nope, std::int64_t d_rope, std::int64_t d_v);
// Such heads in vector-aligned tensors.
bool mha_fast_supports(const MhaLaunch& launch);
// Bytes of scratch that launch_mha_fast needs.
std::size_t mha_fast_scratch(const MhaLaunch& launch);
void launch_mha_fast(cudaStream_t stream, const MhaLaunch& launch, std::byte* scratch);

}  // namespace nibble::kernels::cuda
