// Arguments of the attention ops. The cache of one layer holds, for each token, the normed latent
// (kv_lora_rank values) and the rotated rope key (qk_rope_head_dim values), as cache_layout.h says.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/cache_layout.h"

namespace nibble::kernels {

// Rotates interleaved pairs (2j, 2j+1) in place: the DeepSeek layout on disk.
struct RopeArgs {
  TensorView x;                   // [m, heads, d_rope] f32; or [m, d_rope] for one head; strided
  const std::int32_t* positions;  // [m]
  TensorView cos;                 // [max_positions, d_rope / 2] f32
  TensorView sin;                 // [max_positions, d_rope / 2] f32
};

// latent = rms_norm(latent), k_pe = rope(k_pe).
struct CacheEntryPrologue {
  const float* norm_weight;  // [kv_lora_rank]
  float norm_eps;
  const std::int32_t* positions;  // [m]
  TensorView cos;                 // [max_positions, d_rope / 2] f32
  TensorView sin;                 // [max_positions, d_rope / 2] f32
};

// One layer's cache: entry of token slot s at data + s * row stride. dtype f32, bf16, f8_e4m3 or f8_e5m2.
struct CacheWriteArgs {
  TensorView latent;                 // [m, kv_lora_rank] f32
  TensorView k_pe;                   // [m, d_rope] f32
  const std::int32_t* slot_mapping;  // [m]: page * page_size + offset
  TensorView cache;                  // [num_slots, cache_width]
  // What makes an entry of kv_a_proj's output, or null if latent is normed and k_pe rotated already. Both
  // are then overwritten with undefined values.
  const CacheEntryPrologue* prologue = nullptr;
};

// Copies the first `length` entries of one sequence out of its pages.
struct CacheGatherArgs {
  TensorView cache;                // [num_slots, cache_width]
  const std::int32_t* page_table;  // [ceil(length / page_size)]
  std::int32_t page_size;
  std::int32_t length;
  TensorView latent;  // [length, kv_lora_rank] f32
  TensorView k_pe;    // [length, d_rope] f32
};

// The rows of a ragged batch: sequence s owns query rows cu_seqlens_q[s] .. cu_seqlens_q[s+1], the
// last of which sits at position seq_lens[s] - 1; queries see their own and all earlier positions.
// Row 0 of the query tensors is row cu_seqlens_q[0]: a run of a batch's sequences is passed by moving
// the pointers.
struct RaggedArgs {
  std::int32_t num_seqs;
  const std::int32_t* cu_seqlens_q;  // [num_seqs + 1]
  const std::int32_t* seq_lens;      // [num_seqs], cached entries after this step's writes
  const std::int32_t* page_tables;   // [num_seqs, max_pages]
  std::int32_t max_pages;
  std::int32_t page_size;
};

// Absorbed MLA: scores over the latent cache, values are the latent itself.
//   p = softmax(scale * (q_latent . latent + q_pe . k_pe)),  o = sum p * latent
// Entries at or past seq_lens[s], and pages past them, are never read.
struct MlaAbsorbedArgs {
  TensorView q_latent;  // [m, heads, kv_lora_rank] f32
  TensorView q_pe;      // [m, heads, d_rope] f32
  TensorView cache;     // [num_slots, cache_width]
  RaggedArgs ragged;
  float scale;
  TensorView o;  // [m, heads, kv_lora_rank] f32
};

// Plain multi-head attention of one sequence's chunk over rebuilt keys and values (naive MLA).
// Query row i sits at position length - m + i.
struct MhaArgs {
  TensorView q_nope;  // [m, heads, d_nope] f32
  TensorView q_pe;    // [m, heads, d_rope] f32
  TensorView k_nope;  // [length, heads, d_nope] f32, or KernelTable::rebuilt
  TensorView k_pe;    // [length, d_rope] f32, shared by all heads
  TensorView v;       // [length, heads, d_v] as k_nope
  float scale;
  TensorView o;  // [m, heads, d_v] f32
};

}  // namespace nibble::kernels
