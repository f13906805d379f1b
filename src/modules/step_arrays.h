// StepArrays: chunks of sequences as the arrays of a ForwardBatch, in any order. Storage is reused.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/page_pool.h"
#include "layers/context.h"
#include "nibble/types.h"

namespace nibble::modules {

// Tokens [begin, begin + count) of one sequence.
struct StepItem {
  std::int32_t begin;
  std::int32_t count;
  std::span<const engine::PageId> pages;  // hold at least begin + count tokens
};

class StepArrays {
 public:
  // At least one item, none empty. Valid until the next call.
  layers::ForwardBatch build(std::span<const StepItem> items, std::int32_t page_size, MlaMode mode);

 private:
  std::vector<std::int32_t> token_ids_;  // attention does not look at them
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> slot_mapping_;
  std::vector<std::int32_t> cu_seqlens_q_;
  std::vector<std::int32_t> seq_lens_;
  std::vector<std::int32_t> page_tables_;
  std::vector<std::int32_t> last_rows_;
};

}  // namespace nibble::modules
