// Pre-tokenizer: cuts text into the pieces that byte-pair encoding works on.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "text/pattern.h"

namespace nibble::text {

// What becomes of a match (Hugging Face's SplitDelimiterBehavior).
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous
};

struct SplitStep {
  std::unique_ptr<Pattern> pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // the pattern describes the pieces, not what is between them
};

class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<SplitStep> steps) : steps_(std::move(steps)) {}

  // Replaces `pieces` by the non-empty pieces of `text` (valid UTF-8), left to right. Each step sees the
  // pieces of the step before it, and nothing around them.
  Status split(std::string_view text, std::vector<Span>& pieces) const;

 private:
  std::vector<SplitStep> steps_;
};

}  // namespace nibble::text
