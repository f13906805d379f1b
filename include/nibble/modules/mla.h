// MlaModule: one multi-head latent attention layer by itself (DeepSeek-V2 section 2.1), from hidden states to
// hidden states, with a paged cache of its own that holds the normed latent and the rotated rope key of every
// token. Sequences are added, extended by any mix of prefill chunks and decode steps, shortened and freed.
//
//   NIB_TRY(auto device, nibble::ModuleDevice::open({.device = "cuda"}));
//   NIB_TRY(auto mla, nibble::MlaModule::create_dummy(device, config, /*seed=*/1));
//   NIB_TRY(const nibble::SequenceId a, mla->add_sequence());
//   const nibble::MlaChunk chunk{.sequence = a, .num_tokens = 64};
//   NIB_TRY_STATUS(mla->forward({&chunk, 1}, x, y));  // launches, does not wait
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/modules/device.h"
#include "nibble/modules/weights.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

struct YarnScaling {
  double factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  std::int64_t original_max_position_embeddings = 4096;
};

struct MlaModuleConfig {
  std::int64_t hidden_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t q_lora_rank = 0;  // 0 = queries are not compressed
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;  // even
  std::int64_t v_head_dim = 0;
  double rope_theta = 10000.0;
  std::optional<YarnScaling> yarn;
  float softmax_scale = 0.0F;  // 0 = (nope + rope)^-0.5, times YaRN's factor
  float norm_eps = 1e-6F;
  std::string scheme = "bf16";  // of all projections; a name of quantization_schemes() (checkpoint.h)
  std::string cache_dtype =
      "auto";  // f32, bf16, fp8 (= fp8_e4m3), fp8_e5m2; auto: bf16 on a GPU, f32 on a CPU
  MlaMode mode = MlaMode::automatic;
  std::int32_t page_size = 64;      // tokens of a page
  std::int32_t max_sequences = 16;  // in the cache at once, and of a step
  std::int32_t max_length = 4096;   // tokens of a sequence
  std::int32_t max_tokens = 512;    // of a step
  std::int64_t cache_tokens = 0;    // of all sequences, in whole pages; 0 = max_sequences * max_length
};

// Names and shapes [out, in] as in DeepSeek's checkpoints; rope dimensions in interleaved pairs.
struct MlaWeights {
  HostMatrix q_proj;                      // [heads * (nope + rope), hidden], if q_lora_rank is 0; or
  HostMatrix q_a_proj;                    // [q_lora_rank, hidden]
  std::span<const float> q_a_layernorm;   // [q_lora_rank]
  HostMatrix q_b_proj;                    // [heads * (nope + rope), q_lora_rank]
  HostMatrix kv_a_proj_with_mqa;          // [kv_lora_rank + rope, hidden]
  std::span<const float> kv_a_layernorm;  // [kv_lora_rank]
  HostMatrix kv_b_proj;                   // [heads * (nope + v), kv_lora_rank]
  HostMatrix o_proj;                      // [hidden, heads * v]
};

using SequenceId = std::int64_t;

// The next num_tokens tokens of a sequence (one: a decode step).
struct MlaChunk {
  SequenceId sequence = 0;
  std::int32_t num_tokens = 1;
};

// Where the attention of a batch reads, as MlaModule::plan_attention made it. To be destroyed before its
// module.
class AttentionPlan {
 public:
  AttentionPlan(AttentionPlan&&) noexcept;
  AttentionPlan& operator=(AttentionPlan&&) noexcept;
  ~AttentionPlan();

  struct Impl;

 private:
  friend class MlaModule;
  explicit AttentionPlan(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class MlaModule {
 public:
  // bad_input: sizes, schemes or weights that do not fit each other or are not finite (the message names
  // them); out_of_memory.
  static Result<std::unique_ptr<MlaModule>> create(std::shared_ptr<ModuleDevice> device,
                                                   const MlaModuleConfig& config, const MlaWeights& weights);
  // Pseudo-random weights of magnitude 1 / sqrt(inputs), norms of 1; the same for the same seed and kind of
  // device.
  static Result<std::unique_ptr<MlaModule>> create_dummy(std::shared_ptr<ModuleDevice> device,
                                                         const MlaModuleConfig& config, std::uint64_t seed);
  ~MlaModule();
  MlaModule(const MlaModule&) = delete;
  MlaModule& operator=(const MlaModule&) = delete;

  // A sequence of no tokens. bad_input: max_sequences are there already.
  Result<SequenceId> add_sequence();
  // Its pages are free for others. bad_input: no such sequence (here and below).
  Status free_sequence(SequenceId sequence);
  // Tokens in the cache.
  [[nodiscard]] Result<std::int32_t> length(SequenceId sequence) const;
  // Forgets its last tokens: drafts that were not accepted, say. bad_input: longer than it is.
  Status truncate(SequenceId sequence, std::int32_t length);

  // One step: every chunk's tokens are added to their sequence, and attend to it up to themselves. x, y:
  // [tokens of all chunks, hidden_size] f32 in the device's memory, rows in the order of the chunks; y may be
  // x. Launches and returns without waiting for the results; every kStepsAhead-th step waits for the earlier
  // ones. On a GPU, steps of one token per sequence are replayed as CUDA graphs by their shape (number of
  // sequences, pages of the longest to the next power of two) and pointers, which must stay valid until they
  // are forgotten (ModuleDevice::forget_recorded) or the module ends. bad_input: limits of the configuration,
  // a sequence twice, no tokens, null pointers; out_of_memory: the cache has too few pages. After these
  // nothing has changed.
  Status forward(std::span<const MlaChunk> chunks, const float* x, float* y);
  static constexpr std::int32_t kStepsAhead = 64;
  // The same in host memory: copies in, runs, copies out, waits.
  Status forward_host(std::span<const MlaChunk> chunks, std::span<const float> x, std::span<float> y);

  // Adds entries that were computed elsewhere to the sequence. In the device's memory: latent [num_tokens,
  // kv_lora_rank] f32, normed; k_pe [num_tokens, qk_rope_head_dim] f32, rotated. Waits.
  Status append_entries(SequenceId sequence, std::int32_t num_tokens, const float* latent, const float* k_pe);

  // Attention alone, in the absorbed form, over what the cache holds now: the queries of a chunk are the last
  // num_tokens tokens of its sequence. A plan holds while its sequences are neither changed nor freed.
  Result<AttentionPlan> plan_attention(std::span<const MlaChunk> chunks);
  // q_latent, o: [tokens, heads, kv_lora_rank] f32; q_pe: [tokens, heads, qk_rope_head_dim] f32, rotated; in
  // the device's memory. Launches and returns; recordable (ModuleDevice::run_recorded).
  Status attend(const AttentionPlan& plan, const float* q_latent, const float* q_pe, float* o);

  // The definition, for checks: outputs [num_outputs, hidden_size] of the last num_outputs tokens of a
  // sequence whose inputs from position 0 are x [length, hidden_size] (host memory), from the packed weights
  // decoded, in double on the host; cache entries are rounded as the cache's dtype rounds them, inputs
  // quantised where the scheme says so. Slow; does not touch the cache.
  [[nodiscard]] Result<std::vector<double>> reference(std::span<const float> x,
                                                      std::int32_t num_outputs) const;

  [[nodiscard]] const MlaModuleConfig& config() const noexcept;
  [[nodiscard]] std::size_t weight_bytes() const noexcept;     // packed
  [[nodiscard]] std::size_t bytes_per_token() const noexcept;  // of the cache

  struct Impl;

 private:
  explicit MlaModule(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
