// Regular expressions of tokenizer.json are Oniguruma's (Ruby syntax); nibble runs them with PCRE2.
#pragma once

#include <string>
#include <string_view>

#include "nibble/result.h"

namespace nibble::text {

// A PCRE2 pattern (UTF, multi-line, newline = LF) that matches what Oniguruma matches, with the Unicode
// version of Hugging Face tokenizers for \p{L}, \p{M}, \p{N}, \p{P}, \p{S}, \p{Nd}, \d, \s and \w. Other
// properties have PCRE2's version. unsupported, naming the place, for syntax outside of the part that both
// share or that is translated: literals, classes without nesting, groups, look-around, quantifiers, anchors
// "^" and "$".
Result<std::string> oniguruma_to_pcre2(std::string_view pattern);

}  // namespace nibble::text
