// PagePool: the cache memory of all sequences as pages of equal size, handed out one by one. Knows
// nothing of what a page holds.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/result.h"

namespace nibble::engine {

using PageId = std::int32_t;

class PagePool {
 public:
  // num_pages >= 0, page_size >= 1 (tokens a page holds).
  PagePool(std::int32_t num_pages, std::int32_t page_size);

  [[nodiscard]] std::int32_t num_pages() const noexcept { return static_cast<std::int32_t>(in_use_.size()); }
  [[nodiscard]] std::int32_t page_size() const noexcept { return page_size_; }
  [[nodiscard]] std::int32_t num_free() const noexcept { return static_cast<std::int32_t>(free_.size()); }
  [[nodiscard]] std::int32_t num_used() const noexcept { return num_pages() - num_free(); }

  // Pages that hold num_tokens tokens.
  [[nodiscard]] std::int64_t pages_for(std::int64_t num_tokens) const noexcept {
    return (num_tokens + page_size_ - 1) / page_size_;
  }

  // Appends pages until `table` holds num_tokens tokens. False, with nothing changed, if too few are
  // free.
  [[nodiscard]] bool grow(std::vector<PageId>& table, std::int64_t num_tokens);

  // Gives all pages of `table` back and empties it.
  void release(std::vector<PageId>& table);

  // Every page is free or in exactly one of `tables`; the error says which is not.
  [[nodiscard]] Status check(std::span<const std::vector<PageId>* const> tables) const;

 private:
  std::int32_t page_size_;
  std::vector<PageId> free_;  // a stack: the page freed last is the one still in the caches
  std::vector<std::uint8_t> in_use_;
};

}  // namespace nibble::engine
