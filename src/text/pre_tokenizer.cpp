#include "text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

namespace nibble::text {

namespace {

struct Part {
  Span span;
  bool is_match = false;
};

// Matches and what lies between them, covering [0, size).
void add_gaps(const std::vector<Span>& matches, std::size_t size, std::vector<Part>& parts) {
  std::size_t end = 0;
  for (const Span& match : matches) {
    if (match.begin != end) parts.push_back({.span = {end, match.begin}});
    parts.push_back({.span = match, .is_match = true});
    end = match.end;
  }
  if (end != size) parts.push_back({.span = {end, size}});
}

// Joins neighbours: with `same`, those of the same kind; else a match (but not a second in a row) with what
// comes before it in the order of `parts`.
void join(std::vector<Part>& parts, bool same) {
  std::vector<Part> joined;
  bool previous_is_match = false;
  for (const Part& part : parts) {
    const bool joins = same ? part.is_match == previous_is_match : part.is_match && !previous_is_match;
    if (joins && !joined.empty()) {
      Span& span = joined.back().span;
      span = {std::min(span.begin, part.span.begin), std::max(span.end, part.span.end)};
    } else {
      joined.push_back({.span = part.span});
    }
    previous_is_match = part.is_match;
  }
  parts = std::move(joined);
}

void apply(SplitBehavior behavior, std::vector<Part>& parts) {
  switch (behavior) {
    case SplitBehavior::removed: std::erase_if(parts, [](const Part& part) { return part.is_match; }); break;
    case SplitBehavior::isolated: break;
    case SplitBehavior::merged_with_previous: join(parts, false); break;
    case SplitBehavior::merged_with_next:
      std::reverse(parts.begin(), parts.end());
      join(parts, false);
      std::reverse(parts.begin(), parts.end());
      break;
    case SplitBehavior::contiguous: join(parts, true); break;
  }
}

}  // namespace

Status PreTokenizer::split(std::string_view text, std::vector<Span>& pieces) const {
  pieces.assign(text.empty() ? 0 : 1, {.begin = 0, .end = text.size()});
  std::vector<Span> input;
  std::vector<Span> matches;
  std::vector<Part> parts;
  for (const SplitStep& step : steps_) {
    input.swap(pieces);
    pieces.clear();
    for (const Span& piece : input) {
      const std::string_view piece_text = text.substr(piece.begin, piece.end - piece.begin);
      matches.clear();
      parts.clear();
      NIB_TRY_STATUS(step.pattern->find_all(piece_text, matches));
      add_gaps(matches, piece_text.size(), parts);
      if (step.invert) {
        for (Part& part : parts) part.is_match = !part.is_match;
      }
      apply(step.behavior, parts);
      for (const auto& [span, is_match] : parts) {
        if (span.begin < span.end) pieces.push_back({piece.begin + span.begin, piece.begin + span.end});
      }
    }
  }
  return {};
}

}  // namespace nibble::text
