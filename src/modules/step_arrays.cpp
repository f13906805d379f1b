#include "modules/step_arrays.h"

#include <algorithm>

namespace nibble::modules {
namespace {

constexpr engine::PageId kNoPage = -1;  // past a sequence's pages: any use is out of bounds

std::int32_t num_pages(const StepItem& item, std::int32_t page_size) {
  return (item.begin + item.count + page_size - 1) / page_size;
}

}  // namespace

layers::ForwardBatch StepArrays::build(std::span<const StepItem> items, std::int32_t page_size,
                                       MlaMode mode) {
  for (auto* array : {&positions_, &slot_mapping_, &cu_seqlens_q_, &seq_lens_, &page_tables_, &last_rows_}) {
    array->clear();
  }
  std::int32_t max_pages = 0;
  for (const StepItem& item : items) max_pages = std::max(max_pages, num_pages(item, page_size));
  cu_seqlens_q_.push_back(0);
  for (const StepItem& item : items) {
    const std::int32_t end = item.begin + item.count;
    for (std::int32_t position = item.begin; position < end; ++position) {
      positions_.push_back(position);
      slot_mapping_.push_back(item.pages[static_cast<std::size_t>(position / page_size)] * page_size +
                              position % page_size);
    }
    cu_seqlens_q_.push_back(static_cast<std::int32_t>(positions_.size()));
    seq_lens_.push_back(end);
    last_rows_.push_back(cu_seqlens_q_.back() - 1);
    const auto used = item.pages.first(static_cast<std::size_t>(num_pages(item, page_size)));
    page_tables_.insert(page_tables_.end(), used.begin(), used.end());
    page_tables_.resize(seq_lens_.size() * static_cast<std::size_t>(max_pages), kNoPage);
  }
  token_ids_.resize(positions_.size(), 0);
  return {.token_ids = token_ids_,
          .positions = positions_,
          .cu_seqlens_q = cu_seqlens_q_,
          .seq_lens = seq_lens_,
          .page_tables = page_tables_,
          .max_pages = max_pages,
          .slot_mapping = slot_mapping_,
          .logit_rows = last_rows_,
          .mla_mode = mode};
}

}  // namespace nibble::modules
