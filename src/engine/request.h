// Request: one sequence on its way through the engine.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/page_pool.h"
#include "nibble/engine.h"
#include "nibble/types.h"

namespace nibble::engine {

struct Request {
  RequestId id = 0;
  SamplingParams sampling;
  std::vector<TokenId> tokens;  // prompt, then what was generated
  std::int32_t num_prompt = 0;
  std::int32_t max_tokens = 0;  // bound of tokens.size(): prompt + sampling.max_tokens, within the context
  std::int32_t num_cached = 0;  // leading tokens whose cache entries are written
  std::vector<PageId> pages;    // hold tokens [0, num_cached) and those scheduled now

  [[nodiscard]] std::int32_t num_tokens() const { return static_cast<std::int32_t>(tokens.size()); }
  [[nodiscard]] std::int32_t num_generated() const { return num_tokens() - num_prompt; }
  [[nodiscard]] std::int32_t num_uncached() const { return num_tokens() - num_cached; }
  // One token left to feed, with a cache to attend to.
  [[nodiscard]] bool is_decode() const { return num_uncached() == 1 && num_cached > 0; }
};

}  // namespace nibble::engine
