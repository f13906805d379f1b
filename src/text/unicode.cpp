#include "text/unicode.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <vector>

#include "text/unicode_ranges.h"

namespace nibble::text {

namespace {

constexpr std::size_t kPageBits = 7;
constexpr std::size_t kPageSize = std::size_t{1} << kPageBits;
constexpr char32_t kEnd = 0x110000;

// The runs spelled out as pages of flags, equal neighbours shared, for a lookup of two loads.
class FlagPages {
 public:
  FlagPages() {
    std::size_t run = 0;
    for (std::size_t page = 0; page < page_of_.size(); ++page) add_page(page, run);
  }

  [[nodiscard]] std::uint8_t at(char32_t c) const noexcept {
    return flags_[std::size_t{page_of_[c >> kPageBits]} << kPageBits | (c & (kPageSize - 1))];
  }

 private:
  void add_page(std::size_t page, std::size_t& run) {
    std::array<std::uint8_t, kPageSize> flags;
    for (std::size_t i = 0; i < kPageSize; ++i) {
      const std::size_t c = (page << kPageBits) + i;
      while (run + 1 < std::size(kCodePointRuns) && kCodePointRuns[run + 1].first <= c) ++run;
      flags[i] = kCodePointRuns[run].flags;
    }
    // Long scripts are runs of equal pages: comparing with the last one shares nearly all of them.
    if (!flags_.empty() && std::equal(flags.begin(), flags.end(), flags_.end() - kPageSize)) {
      page_of_[page] = page_of_[page - 1];
      return;
    }
    page_of_[page] = static_cast<std::uint16_t>(flags_.size() >> kPageBits);
    flags_.insert(flags_.end(), flags.begin(), flags.end());
  }

  std::array<std::uint16_t, kEnd / kPageSize> page_of_{};
  std::vector<std::uint8_t> flags_;
};

}  // namespace

CharClass char_class(char32_t c) noexcept {
  static const FlagPages pages;
  return CharClass(c < kEnd ? pages.at(c) : std::uint8_t{0});
}

std::string class_ranges(const std::function<bool(CharClass)>& predicate) {
  std::string ranges;
  for (std::size_t run = 0; run < std::size(kCodePointRuns);) {
    const auto holds = [&](std::size_t i) { return predicate(CharClass(kCodePointRuns[i].flags)); };
    if (!holds(run)) {
      ++run;
      continue;
    }
    const std::uint32_t first = kCodePointRuns[run].first;
    while (run < std::size(kCodePointRuns) && holds(run)) ++run;
    const std::uint32_t end = run < std::size(kCodePointRuns) ? kCodePointRuns[run].first : kEnd;
    ranges += fmt::format("\\x{{{:x}}}", first);
    if (end - first > 1) ranges += fmt::format("-\\x{{{:x}}}", end - 1);
  }
  return ranges;
}

}  // namespace nibble::text
