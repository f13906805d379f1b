#include "engine/page_pool.h"

#include "core/check.h"

namespace nibble::engine {

PagePool::PagePool(std::int32_t num_pages, std::int32_t page_size) : page_size_(page_size) {
  NIB_CHECK(num_pages >= 0 && page_size >= 1, "a pool of {} pages of {} tokens", num_pages, page_size);
  in_use_.resize(static_cast<std::size_t>(num_pages), 0);
  free_.reserve(in_use_.size());
  for (PageId page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

bool PagePool::grow(std::vector<PageId>& table, std::int64_t num_tokens) {
  const std::int64_t missing = pages_for(num_tokens) - static_cast<std::int64_t>(table.size());
  if (missing <= 0) return true;
  if (missing > num_free()) return false;
  table.reserve(table.size() + static_cast<std::size_t>(missing));  // may throw: before pages change hands
  for (std::int64_t i = 0; i < missing; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    in_use_[static_cast<std::size_t>(page)] = 1;
    table.push_back(page);
  }
  return true;
}

void PagePool::release(std::vector<PageId>& table) {
  for (auto page = table.rbegin(); page != table.rend(); ++page) {
    NIB_CHECK(*page >= 0 && *page < num_pages(), "page {} of {} given back", *page, num_pages());
    NIB_CHECK(in_use_[static_cast<std::size_t>(*page)] != 0, "page {} given back twice", *page);
    in_use_[static_cast<std::size_t>(*page)] = 0;
    free_.push_back(*page);
  }
  table.clear();
}

Status PagePool::check(std::span<const std::vector<PageId>* const> tables) const {
  std::vector<int> owners(in_use_.size(), 0);
  for (const std::vector<PageId>* table : tables) {
    for (const PageId page : *table) {
      if (page < 0 || page >= num_pages()) {
        return runtime_error(fmt::format("page table names page {}, the pool has {}", page, num_pages()));
      }
      ++owners[static_cast<std::size_t>(page)];
    }
  }
  std::vector<int> frees(in_use_.size(), 0);
  for (const PageId page : free_) ++frees[static_cast<std::size_t>(page)];
  for (std::size_t page = 0; page < in_use_.size(); ++page) {
    const bool used = in_use_[page] != 0;
    if (owners[page] == (used ? 1 : 0) && frees[page] == (used ? 0 : 1)) continue;
    return runtime_error(
        fmt::format("page {} is marked {}, is in {} page tables and {} times in the free list", page,
                    used ? "used" : "free", owners[page], frees[page]));
  }
  return {};
}

}  // namespace nibble::engine
