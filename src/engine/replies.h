// Replies: several generation requests run to their ends on one Engine, with text, stop strings and
// timings.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::engine {

// Runs all of `requests`. `on_text` (may be empty) is told of the first one's text. `stop` is looked at
// after each step. `tokenizer` may be null: then there is no text, and stop strings are bad_input.
// Errors: the first request that is refused or fails; the others are cancelled.
Result<std::vector<Generation>> generate_replies(Engine& engine, const Tokenizer* tokenizer,
                                                 std::span<const GenerateRequest> requests,
                                                 const TextCallback& on_text, const std::atomic<bool>& stop);

}  // namespace nibble::engine
