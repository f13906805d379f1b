// BatchBuilder: turns scheduled chunks into the arrays of layers::ForwardBatch. Storage is reused,
// so that a step allocates nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/page_pool.h"
#include "layers/context.h"
#include "nibble/types.h"

namespace nibble::engine {

// Tokens [begin, begin + count) of one sequence, whose earlier tokens are in the cache.
struct BatchItem {
  std::span<const TokenId> tokens;  // the whole sequence, or at least up to begin + count
  std::int32_t begin = 0;
  std::int32_t count = 0;
  std::span<const PageId> pages;  // hold at least begin + count tokens
  std::int32_t logits_from = 0;   // logits are wanted of tokens [logits_from, begin + count)

  [[nodiscard]] bool is_prefill() const { return count > 1 || begin == 0; }
};

class BatchBuilder {
 public:
  BatchBuilder(std::int32_t max_num_batched_tokens, std::int32_t max_num_seqs,
               std::int32_t max_pages_per_seq);

  // `items`: prefill chunks first, then decodes; at least one, none empty. The logits rows come in
  // the order of items and tokens. The views are valid until the next call.
  layers::ForwardBatch build(std::span<const BatchItem> items, std::int32_t page_size, MlaMode mla_mode);

 private:
  void add_tokens(const BatchItem& item, std::int32_t page_size);

  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> cu_seqlens_q_;
  std::vector<std::int32_t> seq_lens_;
  std::vector<std::int32_t> page_tables_;
  std::vector<std::int32_t> slot_mapping_;
  std::vector<std::int32_t> logit_rows_;
};

}  // namespace nibble::engine
