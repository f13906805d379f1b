#include "tests/formats/model_tensors.h"

#include <fmt/format.h>

#include <array>

#include "formats/checkpoint.h"
#include "quant/int_layouts.h"

namespace nibble::formats {
namespace {

void add_mlp(ExpectedTensors& out, const std::string& prefix, std::int64_t hidden, std::int64_t inner) {
  out.matrices.push_back({prefix + ".gate_proj", inner, hidden});
  out.matrices.push_back({prefix + ".up_proj", inner, hidden});
  out.matrices.push_back({prefix + ".down_proj", hidden, inner});
}

void add_attention(ExpectedTensors& out, const std::string& prefix, const HfConfig& c) {
  const std::int64_t q_dim = c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  if (c.q_lora_rank == 0) {
    out.matrices.push_back({prefix + ".q_proj", q_dim, c.hidden_size});
  } else {
    out.matrices.push_back({prefix + ".q_a_proj", c.q_lora_rank, c.hidden_size});
    out.vectors.push_back({prefix + ".q_a_layernorm.weight", c.q_lora_rank});
    out.matrices.push_back({prefix + ".q_b_proj", q_dim, c.q_lora_rank});
  }
  out.matrices.push_back(
      {prefix + ".kv_a_proj_with_mqa", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size});
  out.vectors.push_back({prefix + ".kv_a_layernorm.weight", c.kv_lora_rank});
  out.matrices.push_back(
      {prefix + ".kv_b_proj", c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank});
  out.matrices.push_back({prefix + ".o_proj", c.hidden_size, c.num_attention_heads * c.v_head_dim});
}

void add_moe(ExpectedTensors& out, const std::string& prefix, const HfConfig& c) {
  out.matrices.push_back({prefix + ".gate", c.n_routed_experts, c.hidden_size});
  if (c.topk_method == "noaux_tc")
    out.vectors.push_back({prefix + ".gate.e_score_correction_bias", c.n_routed_experts});
  for (std::int64_t e = 0; e < c.n_routed_experts; ++e) {
    add_mlp(out, fmt::format("{}.experts.{}", prefix, e), c.hidden_size, c.moe_intermediate_size);
  }
  if (c.n_shared_experts > 0) {
    add_mlp(out, prefix + ".shared_experts", c.hidden_size, c.n_shared_experts * c.moe_intermediate_size);
  }
}

}  // namespace

ExpectedTensors expected_tensors(const HfConfig& c) {
  ExpectedTensors out;
  out.matrices.push_back({"model.embed_tokens", c.vocab_size, c.hidden_size});
  for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}", layer);
    out.vectors.push_back({prefix + ".input_layernorm.weight", c.hidden_size});
    add_attention(out, prefix + ".self_attn", c);
    out.vectors.push_back({prefix + ".post_attention_layernorm.weight", c.hidden_size});
    if (c.n_routed_experts == 0 || layer < c.first_k_dense_replace) {
      add_mlp(out, prefix + ".mlp", c.hidden_size, c.intermediate_size);
    } else {
      add_moe(out, prefix + ".mlp", c);
    }
  }
  out.vectors.push_back({"model.norm.weight", c.hidden_size});
  if (!c.tie_word_embeddings) out.matrices.push_back({"lm_head", c.vocab_size, c.hidden_size});
  return out;
}

Status walk_checkpoint(const std::filesystem::path& dir) {
  NIB_TRY(const Checkpoint checkpoint, Checkpoint::open(dir));
  const ExpectedTensors expected = expected_tensors(checkpoint.config());
  for (const ExpectedMatrix& m : expected.matrices) {
    NIB_TRY(const MatrixSource source, find_matrix(checkpoint, m.prefix, m.n, m.k));
    const std::string& name = source.tensors.front()->name;
    NIB_TRY_STATUS(quant::check_integer_layout(source.matrix, name));
    quant::RowBuffer buffer;
    NIB_TRY_STATUS(quant::check_finite(quant::canonical_rows(source.matrix, 0, m.n, buffer), name));
  }
  for (const ExpectedVector& v : expected.vectors) {
    const std::array<std::int64_t, 1> shape = {v.size};
    NIB_TRY([[maybe_unused]] const std::vector<float> values, read_vector(checkpoint, v.name, shape));
  }
  return {};
}

}  // namespace nibble::formats
