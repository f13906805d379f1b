// Fields of 32-bit words in the integer layouts of other tools. Private to quant/.
#pragma once

#include <array>
#include <cstdint>

#include "quant/matrix_view.h"

namespace nibble::quant {

using Word = std::uint32_t;

// AWQ: column 8c + j of a word lies in this field.
inline constexpr std::array<unsigned, 8> kAwqField = {0, 4, 1, 5, 2, 6, 3, 7};

inline unsigned bits_of(const MatrixView& m) { return static_cast<unsigned>(format_row(m.format).bits); }

// Codes in a word.
inline std::int64_t fields_of(const MatrixView& m) { return 32 / bits_of(m); }

inline Word field_mask(unsigned bits) { return (1U << bits) - 1U; }

inline Word field_of(Word word, std::int64_t field, unsigned bits) {
  return (word >> (static_cast<unsigned>(field) * bits)) & field_mask(bits);
}

}  // namespace nibble::quant
