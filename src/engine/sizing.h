// Sizing: how long a context and how many cache pages a machine can hold, before weights are read.
//
// The rule: cache and scratch may take half of the memory that the weights leave. Without a
// max_model_len the model's own context is halved until one sequence of it fits; with one, it must
// fit in all of the memory. Pages for max_num_seqs full sequences are made if they fit in the half,
// else as many as fit but enough for one sequence (the scheduler preempts when they run out).
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/engine.h"
#include "models/model.h"
#include "nibble/result.h"

namespace nibble::engine {

struct SizeRequest {
  std::int32_t max_model_len = 0;  // 0 = choose
  std::int32_t max_num_seqs = 1;
  std::int32_t max_num_batched_tokens = 512;
  std::int32_t page_size = 64;
  MlaMode mla_mode = MlaMode::automatic;
};

struct EngineSizes {
  EngineConfig config;
  std::size_t cache_bytes = 0;
  std::size_t scratch_bytes = 0;
};

// `model` may be a shape without weights; `memory` is what the weights leave, in bytes. bad_input for
// numbers that make no sense, out_of_memory if not even one sequence fits.
Result<EngineSizes> choose_sizes(const models::Model& model, Backend backend, const SizeRequest& request,
                                 std::uint64_t memory);

}  // namespace nibble::engine
