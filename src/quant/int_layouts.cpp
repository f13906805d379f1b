#include "quant/int_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "quant/codec.h"
#include "quant/int_fields.h"
#include "quant/scales.h"

namespace nibble::quant {
namespace {

int centred(const MatrixView& m, Word field) { return static_cast<int>(field) - (1 << (bits_of(m) - 1)); }

// Unsigned zero of (row, group) as the layout stores it.
Word stored_zero(const MatrixView& m, std::int64_t row, std::int64_t group) {
  const std::int64_t fields = fields_of(m);
  const unsigned bits = bits_of(m);
  switch (m.layout) {
    case MatrixLayout::gptq: {
      const Word word = load<Word>(m.zeros, group * (m.n / fields) + row / fields);
      return (field_of(word, row % fields, bits) + 1U) & ((1U << bits) - 1U);
    }
    case MatrixLayout::gptq_v2:
      return field_of(load<Word>(m.zeros, group * (m.n / fields) + row / fields), row % fields, bits);
    case MatrixLayout::awq:
      return field_of(load<Word>(m.zeros, group * (m.n / 8) + row / 8),
                      kAwqField[static_cast<std::size_t>(row % 8)], bits);
    case MatrixLayout::ct_packed:
      return field_of(load<Word>(m.zeros, row / fields * m.num_groups() + group), row % fields, bits);
    case MatrixLayout::rows: break;
  }
  NIB_CHECK(false, "canonical zeros are not packed");
}

// A word is P consecutive k of one row, as in the canonical layout.
void copy_gptq(const MatrixView& m, std::int64_t row_begin, std::int64_t rows, std::byte* out) {
  const std::int64_t words = m.k / fields_of(m);
  const std::int64_t row_bytes = code_row_bytes(m.format, m.k);
  // Canonical int4 codes keep their offset, int8 codes are signed.
  const Word flip = m.format == WeightFormat::int8 ? 0x80808080U : 0U;
  for (std::int64_t w = 0; w < words; ++w) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const Word word = load<Word>(m.codes, w * m.n + row_begin + r) ^ flip;
      std::memcpy(out + r * row_bytes + w * 4, &word, sizeof(word));
    }
  }
}

// compressed-tensors pads the last word of a row.
void copy_ct_rows(const MatrixView& m, std::int64_t row_begin, std::int64_t rows, std::byte* out) {
  const std::int64_t row_bytes = code_row_bytes(m.format, m.k);
  const std::int64_t stride = (row_bytes + 3) / 4 * 4;
  const Word flip = m.format == WeightFormat::int8 ? 0x80U : 0U;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* from = byte_row(m.codes, row_begin + r, stride);
    for (std::int64_t i = 0; i < row_bytes; ++i)
      out[r * row_bytes + i] = static_cast<std::byte>(from[i] ^ flip);
  }
}

// Two consecutive k of up to eight rows at a time.
void copy_awq(const MatrixView& m, std::int64_t row_begin, std::int64_t rows, std::byte* out) {
  const std::int64_t row_bytes = m.k / 2;
  const std::int64_t word_columns = m.n / 8;
  for (std::int64_t column = row_begin / 8; column * 8 < row_begin + rows; ++column) {
    const std::int64_t first = std::max(column * 8, row_begin);
    const std::int64_t last = std::min(column * 8 + 8, row_begin + rows);
    for (std::int64_t kk = 0; kk < m.k; kk += 2) {
      const Word even = load<Word>(m.codes, kk * word_columns + column);
      const Word odd = load<Word>(m.codes, (kk + 1) * word_columns + column);
      for (std::int64_t row = first; row < last; ++row) {
        const unsigned field = kAwqField[static_cast<std::size_t>(row % 8)];
        out[(row - row_begin) * row_bytes + kk / 2] =
            static_cast<std::byte>(field_of(even, field, 4) | field_of(odd, field, 4) << 4);
      }
    }
  }
}

void copy_codes(const MatrixView& m, std::int64_t row_begin, std::int64_t rows, std::byte* out) {
  switch (m.layout) {
    case MatrixLayout::awq: return copy_awq(m, row_begin, rows, out);
    case MatrixLayout::ct_packed: return copy_ct_rows(m, row_begin, rows, out);
    default: return copy_gptq(m, row_begin, rows, out);
  }
}

float stored_scale(const MatrixView& m, std::int64_t row, std::int64_t group) {
  const bool by_row = m.layout == MatrixLayout::rows || m.layout == MatrixLayout::ct_packed;
  const std::int64_t scale_row = row / m.rows_per_scale();
  return load_scale(m.scales, m.scale_dtype, by_row ? scale_row * m.num_groups() + group : group * m.n + row);
}

// Rows of a canonical matrix: a shift of its pointers.
MatrixView sub_rows(const MatrixView& m, std::int64_t row_begin, std::int64_t row_end) {
  const std::int64_t group_n = m.rows_per_scale();
  NIB_CHECK(row_begin % group_n == 0 || row_end <= group_n, "row {} is inside a block of {} rows", row_begin,
            group_n);
  MatrixView rows = m;
  rows.n = row_end - row_begin;
  rows.codes += row_begin * code_row_bytes(m.format, m.k);
  if (m.num_groups() != 0) {
    rows.scales += row_begin / group_n * m.num_groups() * dtype_bits(m.scale_dtype) / 8;
  }
  if (m.zeros != nullptr) rows.zeros += row_begin * m.num_groups();
  return rows;
}

Error bad_value(std::string_view name, const std::string& text) {
  return bad_input(fmt::format("{}: {}", name, text));
}

Status check_g_idx(const MatrixView& m, std::string_view name) {
  for (std::int64_t kk = 0; kk < m.k; ++kk) {
    const auto group = load<std::int32_t>(m.g_idx, kk);
    if (group < 0 || group >= m.num_groups()) {
      return bad_value(
          name, fmt::format("g_idx[{}] is {}; expected a group from 0 to {}", kk, group, m.num_groups() - 1));
    }
    if (!m.grouping.act_order && group != kk / m.group_k()) {
      return bad_value(name, fmt::format("g_idx[{}] is {}; expected {}: the configuration says that channels "
                                         "are not reordered (desc_act false)",
                                         kk, group, kk / m.group_k()));
    }
  }
  return {};
}

Status check_symmetric(const MatrixView& m, std::string_view name) {
  for (std::int64_t group = 0; group < m.num_groups(); ++group) {
    for (std::int64_t row = 0; row < m.n; ++row) {
      const int zero = centred(m, stored_zero(m, row, group));
      if (zero == 0) continue;
      const int middle = 1 << (bits_of(m) - 1);
      return bad_value(name, fmt::format("zero point of row {}, group {} is {}; expected {}: the "
                                         "configuration says that it is symmetric",
                                         row, group, zero + middle, middle));
    }
  }
  return {};
}

// No tool writes a zero scale: it would erase the weights of its group.
Status check_scales(const MatrixView& m, std::string_view name) {
  for (std::int64_t row = 0; row < m.n; row += m.rows_per_scale()) {
    for (std::int64_t group = 0; group < m.num_groups(); ++group) {
      const float scale = stored_scale(m, row, group);
      if (std::isfinite(scale) && scale != 0.0F) continue;
      return bad_value(
          name, fmt::format("scale of row {}, group {} is {}; expected a finite number other than 0", row,
                            group, scale));
    }
  }
  return {};
}

}  // namespace

std::int64_t code_row_bytes(WeightFormat format, std::int64_t k) noexcept {
  return k * format_row(format).bits / 8;
}

MatrixView canonical_rows(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end,
                          RowBuffer& buffer) {
  NIB_CHECK(row_begin >= 0 && row_begin <= row_end && row_end <= matrix.n, "rows {}..{} of {}", row_begin,
            row_end, matrix.n);
  if (matrix.layout == MatrixLayout::rows) return sub_rows(matrix, row_begin, row_end);
  const std::int64_t rows = row_end - row_begin;
  const std::int64_t groups = matrix.num_groups();
  buffer.codes.resize(static_cast<std::size_t>(rows * code_row_bytes(matrix.format, matrix.k)));
  buffer.scales.resize(static_cast<std::size_t>(rows * groups));
  buffer.zeros.resize(static_cast<std::size_t>(matrix.grouping.zero_points ? rows * groups : 0));
  copy_codes(matrix, row_begin, rows, buffer.codes.data());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto i = static_cast<std::size_t>(r * groups + g);
      buffer.scales[i] = stored_scale(matrix, row_begin + r, g);
      if (!matrix.grouping.zero_points) continue;
      buffer.zeros[i] = static_cast<std::int8_t>(centred(matrix, stored_zero(matrix, row_begin + r, g)));
    }
  }
  MatrixView view = matrix;
  view.layout = MatrixLayout::rows;
  view.n = rows;
  view.codes = buffer.codes.data();
  view.scales = reinterpret_cast<const std::byte*>(buffer.scales.data());
  view.scale_dtype = DType::f32;
  view.zeros =
      matrix.grouping.zero_points ? reinterpret_cast<const std::byte*>(buffer.zeros.data()) : nullptr;
  return view;
}

Status check_integer_layout(const MatrixView& matrix, std::string_view name) {
  if (matrix.format != WeightFormat::int8 && matrix.format != WeightFormat::int4) return {};
  if (matrix.g_idx != nullptr) NIB_TRY_STATUS(check_g_idx(matrix, name));
  NIB_TRY_STATUS(check_scales(matrix, name));
  const bool packed_zeros = matrix.layout != MatrixLayout::rows && matrix.zeros != nullptr;
  if (packed_zeros && !matrix.grouping.zero_points) NIB_TRY_STATUS(check_symmetric(matrix, name));
  return {};
}

}  // namespace nibble::quant
