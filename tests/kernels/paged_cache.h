// A cache whose unused memory is poison: what no sequence has written is NaN, and page table entries
// past a sequence's pages point nowhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/tensor.h"
#include "quant/float16.h"
#include "tests/support/random.h"

namespace nibble::kernels::testing {

struct PagedCache {
  PagedCache(DType cache_dtype, std::int64_t num_pages, std::int32_t tokens_per_page, std::int64_t entry_size,
             std::int64_t entry_gap = 2)
      : dtype(cache_dtype),
        page_size(tokens_per_page),
        width(entry_size),
        gap(entry_gap),
        num_slots(num_pages * tokens_per_page) {
    const std::size_t elements = static_cast<std::size_t>(num_slots * stride());
    floats.assign(dtype == DType::f32 ? elements : 0, std::numeric_limits<float>::quiet_NaN());
    halves.assign(dtype == DType::f32 ? 0 : elements, 0x7FC0);
  }

  // Entries lie further apart than they are long.
  [[nodiscard]] std::int64_t stride() const { return width + gap; }

  [[nodiscard]] TensorView view() {
    TensorView v = make_view(nullptr, dtype, {num_slots, width});
    v.stride[0] = stride();
    v.data = dtype == DType::f32 ? static_cast<void*>(floats.data()) : static_cast<void*>(halves.data());
    return v;
  }

  // Stores one value; returns it as the cache holds it.
  float set(std::int64_t slot, std::int64_t column, float value) {
    const auto at = static_cast<std::size_t>(slot * stride() + column);
    if (dtype == DType::f32) return floats[at] = value;
    halves[at] = quant::float_to_bf16(value);
    return quant::bf16_to_float(halves[at]);
  }

  [[nodiscard]] float get(std::int64_t slot, std::int64_t column) const {
    const auto at = static_cast<std::size_t>(slot * stride() + column);
    return dtype == DType::f32 ? floats[at] : quant::bf16_to_float(halves[at]);
  }

  DType dtype;
  std::int32_t page_size;
  std::int64_t width;
  std::int64_t gap;
  std::int64_t num_slots;
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
};

// Page tables of several sequences, pages handed out in random order.
struct PageTables {
  PageTables(::nibble::testing::Random& random, std::span<const std::int32_t> seq_lens,
             std::int32_t tokens_per_page)
      : page_size(tokens_per_page) {
    for (const std::int32_t len : seq_lens) {
      max_pages = std::max(max_pages, (len + page_size - 1) / page_size + 2);
      num_pages += (len + page_size - 1) / page_size;
    }
    std::vector<std::int32_t> free_pages;
    for (std::int32_t p = 0; p < num_pages; ++p) free_pages.push_back(p);
    for (const std::int32_t len : seq_lens) {
      for (std::int32_t p = 0; p < max_pages; ++p) {
        if (p * page_size >= len) {
          entries.push_back(std::numeric_limits<std::int32_t>::max());
          continue;
        }
        const auto pick =
            static_cast<std::size_t>(random.below(static_cast<std::int64_t>(free_pages.size())));
        entries.push_back(free_pages[pick]);
        free_pages.erase(free_pages.begin() + static_cast<std::ptrdiff_t>(pick));
      }
    }
  }

  [[nodiscard]] std::int64_t slot(std::int64_t sequence, std::int64_t position) const {
    const auto at = static_cast<std::size_t>(sequence * max_pages + position / page_size);
    return static_cast<std::int64_t>(entries[at]) * page_size + position % page_size;
  }

  std::int32_t page_size;
  std::int32_t max_pages = 0;
  std::int32_t num_pages = 0;
  std::vector<std::int32_t> entries;  // [sequences, max_pages]
};

}  // namespace nibble::kernels::testing
