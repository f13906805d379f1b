#include "engine/batch_builder.h"

#include <algorithm>

#include "core/check.h"

namespace nibble::engine {
namespace {

// Fills the page tables past a sequence's pages; any use of it is out of bounds and found at once.
constexpr PageId kNoPage = -1;

}  // namespace

BatchBuilder::BatchBuilder(std::int32_t max_num_batched_tokens, std::int32_t max_num_seqs,
                           std::int32_t max_pages_per_seq) {
  const auto tokens = static_cast<std::size_t>(max_num_batched_tokens);
  const auto seqs = static_cast<std::size_t>(max_num_seqs);
  for (auto* array : {&token_ids_, &positions_, &slot_mapping_, &logit_rows_}) array->reserve(tokens);
  cu_seqlens_q_.reserve(seqs + 1);
  seq_lens_.reserve(seqs);
  page_tables_.reserve(seqs * static_cast<std::size_t>(max_pages_per_seq));
}

layers::ForwardBatch BatchBuilder::build(std::span<const BatchItem> items, std::int32_t page_size,
                                         MlaMode mla_mode) {
  for (auto* array :
       {&token_ids_, &positions_, &cu_seqlens_q_, &seq_lens_, &page_tables_, &slot_mapping_, &logit_rows_}) {
    array->clear();
  }
  NIB_CHECK(!items.empty(), "a batch of no sequences");
  const auto num_pages = [&](const BatchItem& item) {
    return (item.begin + item.count + page_size - 1) / page_size;
  };
  std::int32_t max_pages = 0;
  std::int32_t num_prefill = 0;
  for (const BatchItem& item : items) {
    max_pages = std::max(max_pages, num_pages(item));
    num_prefill += item.is_prefill() ? 1 : 0;
  }
  cu_seqlens_q_.push_back(0);
  for (std::size_t i = 0; i < items.size(); ++i) {
    NIB_CHECK(items[i].is_prefill() == (i < static_cast<std::size_t>(num_prefill)),
              "sequence {} is out of order", i);
    add_tokens(items[i], page_size);
    const auto used = items[i].pages.first(static_cast<std::size_t>(num_pages(items[i])));
    page_tables_.insert(page_tables_.end(), used.begin(), used.end());
    page_tables_.resize((i + 1) * static_cast<std::size_t>(max_pages), kNoPage);
  }
  return {.token_ids = token_ids_,
          .positions = positions_,
          .cu_seqlens_q = cu_seqlens_q_,
          .seq_lens = seq_lens_,
          .page_tables = page_tables_,
          .max_pages = max_pages,
          .slot_mapping = slot_mapping_,
          .logit_rows = logit_rows_,
          .num_prefill = num_prefill,
          .mla_mode = mla_mode};
}

void BatchBuilder::add_tokens(const BatchItem& item, std::int32_t page_size) {
  const std::int32_t end = item.begin + item.count;
  NIB_CHECK(item.begin >= 0 && item.count >= 1 && static_cast<std::size_t>(end) <= item.tokens.size(),
            "tokens {}..{} of {}", item.begin, end, item.tokens.size());
  NIB_CHECK(static_cast<std::int64_t>(item.pages.size()) * page_size >= end, "{} pages of {} for {} tokens",
            item.pages.size(), page_size, end);
  for (std::int32_t position = item.begin; position < end; ++position) {
    if (position >= item.logits_from) logit_rows_.push_back(static_cast<std::int32_t>(token_ids_.size()));
    const PageId page = item.pages[static_cast<std::size_t>(position / page_size)];
    token_ids_.push_back(item.tokens[static_cast<std::size_t>(position)]);
    positions_.push_back(position);
    slot_mapping_.push_back(page * page_size + position % page_size);
  }
  cu_seqlens_q_.push_back(static_cast<std::int32_t>(token_ids_.size()));
  seq_lens_.push_back(end);
}

}  // namespace nibble::engine
