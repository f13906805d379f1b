// Feeding known tokens through the model for their logits: the same ragged batches, cache pages and
// kernels as generation, but the tokens are given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "engine/model_runner.h"
#include "engine/page_pool.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

struct KnownSequence {
  std::span<const TokenId> tokens;  // at least one, within the vocabulary and max_model_len
  std::int32_t prefill_chunk = 0;   // tokens a step; 0 = as many as a step holds
  std::int32_t decode_from = -1;    // >= 0: tokens from here on go one by one
  std::int32_t logits_from = 0;     // logits are wanted of tokens from here on
};

// Receives the logits after token `token_idx` of sequence `seq_idx`; rows of one sequence come in
// order. The row is finite. An error ends the run.
using LogitsRowCallback =
    std::function<Status(std::size_t seq_idx, std::int32_t token_idx, std::span<const float> row)>;

// Runs all sequences side by side until the longest is done; the pages are given back in any case.
// bad_input if the tokens do not fit in the free pages, runtime if logits are not finite (names the
// token). Throws what ModelRunner::run throws.
Status score(ModelRunner& runner, PagePool& pool, std::int32_t vocab_size,
             std::span<const KnownSequence> sequences, const LogitsRowCallback& on_row);

}  // namespace nibble::engine
