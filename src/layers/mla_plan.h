// Which form of multi-head latent attention is cheaper for a sequence's chunk, decided from dimensions
// and the kind of device alone, so that it never depends on the rest of the batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/types.h"

namespace nibble::layers {

struct MlaConfig {
  std::int64_t hidden_size = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t q_lora_rank = 0;  // 0 = queries are not compressed
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;
  float softmax_scale = 0.0F;
  float norm_eps = 1e-6F;  // of the norms inside attention

  [[nodiscard]] std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

// Chunks of fewer rows are always absorbed: too little to share rebuilt keys and values among.
inline constexpr std::int64_t kMinNaiveRows = 8;

// What the automatic choice goes by on a device, besides the multiplications.
struct MlaRule {
  // It never rebuilds more keys and values than this (they take length * heads * (qk_nope_head_dim +
  // v_head_dim) floats): beyond it memory costs more than the multiplications that are saved.
  std::size_t max_naive_scratch_bytes;
};
inline constexpr MlaRule kHostMlaRule{.max_naive_scratch_bytes = std::size_t{512} << 20};
// On an H100 absorbed attention takes twice as long for every long chunk (docs/kernels/mla_decode.md); 16,000
// positions of 128 heads.
inline constexpr MlaRule kGpuMlaRule{.max_naive_scratch_bytes = std::size_t{2} << 30};

// Multiplications of one layer's attention for the last `rows` of `length` positions, from the latent
// cache and the queries to the heads' outputs.
double naive_mla_cost(const MlaConfig& config, std::int64_t rows, std::int64_t length);
double absorbed_mla_cost(const MlaConfig& config, std::int64_t rows, std::int64_t length);

// Scratch the naive form needs for a sequence of this length.
std::size_t naive_mla_scratch_bytes(const MlaConfig& config, std::int64_t length);

// Longest sequence the naive form is used for in automatic mode.
std::int64_t max_automatic_naive_length(const MlaConfig& config, const MlaRule& rule);

// naive or absorb, never automatic.
MlaMode choose_mla_mode(const MlaConfig& config, const MlaRule& rule, MlaMode requested, std::int64_t rows,
                        std::int64_t length);

}  // namespace nibble::layers
