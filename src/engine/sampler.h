// Sampler: turns a step's logits into tokens, where the logits are. What comes to the host is the ids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"
#include "engine/model_runner.h"
#include "kernels/args/sampling.h"
#include "nibble/engine.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

// bad_input naming the field, the value and the range allowed.
Status check_sampling(const SamplingParams& params, std::int32_t vocab_size);

class Sampler {
 public:
  // `backend` must outlive this. Throws std::bad_alloc.
  Sampler(Backend backend, std::int32_t vocab_size, std::int32_t max_num_seqs);

  // Starts a step's rows.
  void clear();
  // The next row's parameters, which have passed check_sampling, and the sequence so far, the first
  // num_prompt tokens of which are the prompt. Allocates only where penalties need a longer history than
  // ever before.
  void add(const SamplingParams& params, std::span<const TokenId> tokens, std::int32_t num_prompt);
  // One token for each row that was added, or kernels::kNotFinite. logits: [rows, vocab_size] in the
  // backend's memory; penalties may change them. Valid until the next clear(). Throws as ModelRunner::run.
  std::span<const TokenId> sample(const TensorView& logits);

 private:
  // Where rows, history and ids lie, in one piece.
  struct Places {
    std::size_t history;
    std::size_t ids;
    std::size_t end;
  };
  [[nodiscard]] static Places places(std::size_t num_rows, std::size_t history_size);
  void reserve(std::size_t num_rows, std::size_t history_size);
  void add_history(std::span<const TokenId> tokens, std::int32_t num_prompt);

  Backend backend_;
  std::vector<kernels::SampleRow> rows_;
  std::vector<kernels::TokenCount> history_;  // of all rows
  std::vector<std::int32_t> counts_;          // all zero between calls
  Buffer staging_;
  Buffer arrays_;  // the same where kernels read and write; empty: the host's memory
};

}  // namespace nibble::engine
