// MlaAttention: multi-head latent attention with decoupled rope (DeepSeek-V2 section 2.1) over a paged
// cache that holds, per token, the normed latent and the rotated rope key.
//
// Two forms of the same mathematics. Naive: keys and values of all heads are rebuilt from the latent
// (W_UK, W_UV), then plain attention. Absorbed: W_UK is folded into the query and W_UV into the
// output, so that attention runs over the latent itself. Each sequence of a batch may use another.
// Where the scheme quantises activations, W_UK and W_UV see a quantised latent in the naive form only:
// the absorbed form has no such input.
#pragma once

#include <optional>

#include "kernels/weight.h"
#include "layers/context.h"
#include "layers/linear.h"
#include "layers/mla_plan.h"
#include "layers/rms_norm.h"
#include "layers/rope.h"

namespace nibble::layers {

// Query: q_proj alone, or q_a_proj, q_a_layernorm and q_b_proj when queries are compressed.
struct MlaWeights {
  explicit MlaWeights(const MlaConfig& config);

  std::optional<Linear> q_proj;          // [heads * qk_head_dim, hidden]
  std::optional<Linear> q_a_proj;        // [q_lora_rank, hidden]
  std::optional<RmsNorm> q_a_layernorm;  // [q_lora_rank]
  std::optional<Linear> q_b_proj;        // [heads * qk_head_dim, q_lora_rank]
  Linear kv_a_proj_with_mqa;             // [kv_lora_rank + qk_rope_head_dim, hidden]
  RmsNorm kv_a_layernorm;                // [kv_lora_rank]
  kernels::Weight w_uk;                  // per head [qk_nope_head_dim, kv_lora_rank], rows of kv_b_proj
  kernels::Weight w_uv;                  // per head [v_head_dim, kv_lora_rank], rows of kv_b_proj
  Linear o_proj;                         // [hidden, heads * v_head_dim]
};

class MlaAttention {
 public:
  explicit MlaAttention(const MlaConfig& config) : config_(config), weights_(config) {}

  // x, y: [m, hidden_size] f32. cache: this layer's entries, [num_slots, kv_lora_rank +
  // qk_rope_head_dim]; the batch's tokens are written to their slots first.
  // With a counting arena, scratch is counted for whichever form automatic mode may later choose.
  void forward(Context& ctx, const ForwardBatch& batch, const Rope& rope, const TensorView& cache,
               std::int32_t page_size, TensorView x, TensorView y) const;

  [[nodiscard]] const MlaConfig& config() const noexcept { return config_; }
  // For loading, once.
  [[nodiscard]] MlaWeights& weights() noexcept { return weights_; }

 private:
  // Views of one step's activations, named as in the paper.
  struct Step {
    const ForwardBatch& batch;
    const Rope& rope;
    const TensorView& cache;
    std::int32_t page_size;
    TensorView q_nope;  // [m, heads, qk_nope_head_dim]
    TensorView q_pe;    // [m, heads, qk_rope_head_dim]; its rows are rotated by what attends
    TensorView o;       // [m, heads, v_head_dim]
  };

  // From the layer's first product for queries, which is q itself or q_a of q_lora_rank values.
  void expand_queries(Context& ctx, TensorView q_a, TensorView q) const;
  void write_cache(Context& ctx, const Step& step, TensorView kv_a) const;
  // Query rows [begin, end).
  void rotate(Context& ctx, const Step& step, std::int64_t begin, std::int64_t end) const;
  void attend(Context& ctx, const Step& step) const;
  void attend_counting(Context& ctx, const Step& step) const;
  void attend_naive(Context& ctx, const Step& step, std::int32_t seq_idx, std::int64_t length) const;
  void attend_absorbed(Context& ctx, const Step& step, std::int32_t seq_begin, std::int32_t seq_end) const;

  MlaConfig config_;
  MlaWeights weights_;
};

}  // namespace nibble::layers
