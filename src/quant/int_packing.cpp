#include "quant/int_packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "quant/codec.h"
#include "quant/int_fields.h"
#include "quant/int_layouts.h"

namespace nibble::quant {
namespace {

bool is_gptq(MatrixLayout layout) { return layout == MatrixLayout::gptq || layout == MatrixLayout::gptq_v2; }

std::string_view layout_name(MatrixLayout layout) {
  if (is_gptq(layout)) return "GPTQ";
  return layout == MatrixLayout::awq ? "AWQ" : "pack-quantized";
}

std::int64_t words_for(std::int64_t codes, std::int64_t fields) { return (codes + fields - 1) / fields; }

void put_word(std::byte* out, std::int64_t i, Word word) { std::memcpy(out + i * 4, &word, sizeof(word)); }

// Canonical int8 codes are signed, all packed codes unsigned; int4 codes are unsigned in both.
Word sign_flip(const MatrixView& m) { return m.format == WeightFormat::int8 ? 0x80808080U : 0U; }

// Unsigned zero of (row, group).
Word zero_field(const MatrixView& m, std::int64_t row, std::int64_t group) {
  const int centred = m.grouping.zero_points ? load<std::int8_t>(m.zeros, row * m.num_groups() + group) : 0;
  return static_cast<Word>(centred + (1 << (bits_of(m) - 1))) & field_mask(bits_of(m));
}

Status check_multiple(std::string_view what, std::int64_t size, std::int64_t multiple, MatrixLayout layout) {
  if (size % multiple == 0) return {};
  return bad_input(fmt::format("{} {} cannot be stored in {} words; expected a multiple of {}", size, what,
                               layout_name(layout), multiple));
}

Status check_awq(const MatrixView& m) {
  if (m.format != WeightFormat::int4) {
    return bad_input(fmt::format("{} weights cannot be stored as AWQ; expected int4", format_name(m.format)));
  }
  if (m.grouping.act_order) return bad_input("reordered channels (act_order) cannot be stored as AWQ");
  return check_multiple("input channels in groups of " + std::to_string(m.group_k()), m.k, m.group_k(),
                        MatrixLayout::awq);
}

Status check_packable(const MatrixView& m, MatrixLayout layout) {
  if (layout == MatrixLayout::rows || m.layout != MatrixLayout::rows) {
    return bad_input("only canonical matrices are packed, and only into layouts of words");
  }
  if (m.format != WeightFormat::int8 && m.format != WeightFormat::int4) {
    return bad_input(fmt::format("{} weights cannot be stored as {}; expected int4 or int8",
                                 format_name(m.format), layout_name(layout)));
  }
  if (m.rows_per_scale() != 1)
    return bad_input(fmt::format("blocks of rows cannot be stored as {}", layout_name(layout)));
  if (layout == MatrixLayout::ct_packed) return {};
  if (layout == MatrixLayout::awq) NIB_TRY_STATUS(check_awq(m));
  NIB_TRY_STATUS(check_multiple("output channels", m.n, fields_of(m), layout));
  if (is_gptq(layout)) NIB_TRY_STATUS(check_multiple("input channels", m.k, fields_of(m), layout));
  if (m.scale_dtype != DType::f16) {
    return bad_input(fmt::format("{} scales cannot be stored as {}; expected F16: encode with F16 scales",
                                 dtype_name(m.scale_dtype), layout_name(layout)));
  }
  return {};
}

// A word is P consecutive k of one row, in the canonical order; tiles of rows keep the writes together.
void pack_gptq(const MatrixView& m, std::byte* out) {
  constexpr std::int64_t kTileRows = 16;
  const std::int64_t words = m.k / fields_of(m);
  const std::int64_t row_bytes = code_row_bytes(m.format, m.k);
  for (std::int64_t begin = 0; begin < m.n; begin += kTileRows) {
    const std::int64_t end = std::min(begin + kTileRows, m.n);
    for (std::int64_t w = 0; w < words; ++w) {
      for (std::int64_t row = begin; row < end; ++row) {
        put_word(out, w * m.n + row, load<Word>(m.codes + row * row_bytes, w) ^ sign_flip(m));
      }
    }
  }
}

void pack_awq(const MatrixView& m, std::byte* out) {
  const std::int64_t row_bytes = m.k / 2;
  for (std::int64_t column = 0; column < m.n / 8; ++column) {
    for (std::int64_t byte = 0; byte < row_bytes; ++byte) {
      Word even = 0;
      Word odd = 0;
      for (std::int64_t j = 0; j < 8; ++j) {
        const Word pair = byte_row(m.codes, column * 8 + j, row_bytes)[byte];
        const unsigned shift = 4 * kAwqField[static_cast<std::size_t>(j)];
        even |= (pair & 0xFU) << shift;
        odd |= (pair >> 4U) << shift;
      }
      put_word(out, 2 * byte * (m.n / 8) + column, even);
      put_word(out, (2 * byte + 1) * (m.n / 8) + column, odd);
    }
  }
}

// Rows as they are; the fields beyond k in the last word are zero.
void pack_ct_rows(const MatrixView& m, std::byte* out) {
  const std::int64_t row_bytes = code_row_bytes(m.format, m.k);
  const std::int64_t stride = words_for(m.k, fields_of(m)) * 4;
  const Word flip = sign_flip(m) & 0xFFU;
  for (std::int64_t row = 0; row < m.n; ++row) {
    const std::uint8_t* from = byte_row(m.codes, row, row_bytes);
    std::byte* to = out + row * stride;
    for (std::int64_t i = 0; i < row_bytes; ++i) to[i] = static_cast<std::byte>(from[i] ^ flip);
    std::fill(to + row_bytes, to + stride, std::byte{0});
  }
}

// The word of zeros of rows [row, row + P) in `group`.
Word zeros_word(const MatrixView& m, MatrixLayout layout, std::int64_t first_row, std::int64_t group) {
  const unsigned bits = bits_of(m);
  Word word = 0;
  for (std::int64_t j = 0; j < std::min(fields_of(m), m.n - first_row); ++j) {
    Word zero = zero_field(m, first_row + j, group);
    if (layout == MatrixLayout::gptq) zero = (zero - 1U) & field_mask(bits);
    const auto field =
        layout == MatrixLayout::awq ? kAwqField[static_cast<std::size_t>(j)] : static_cast<unsigned>(j);
    word |= zero << (bits * field);
  }
  return word;
}

}  // namespace

Result<PackedBytes> packed_bytes(const MatrixView& m, MatrixLayout layout) {
  NIB_TRY_STATUS(check_packable(m, layout));
  const bool by_row = layout == MatrixLayout::ct_packed;
  const std::int64_t fields = fields_of(m);
  const std::int64_t groups = m.num_groups();
  PackedBytes bytes;
  bytes.codes = 4 * (by_row ? m.n * words_for(m.k, fields) : m.n * m.k / fields);
  bytes.zeros = by_row && !m.grouping.zero_points ? 0 : 4 * groups * words_for(m.n, fields);
  bytes.scales = m.n * groups * dtype_bits(m.scale_dtype) / 8;
  bytes.g_idx = is_gptq(layout) || (by_row && m.grouping.act_order) ? 4 * m.k : 0;
  return bytes;
}

void pack_codes(const MatrixView& m, MatrixLayout layout, std::byte* out) {
  if (is_gptq(layout)) return pack_gptq(m, out);
  if (layout == MatrixLayout::awq) return pack_awq(m, out);
  pack_ct_rows(m, out);
}

void pack_zeros(const MatrixView& m, MatrixLayout layout, std::byte* out) {
  const std::int64_t words = words_for(m.n, fields_of(m));
  const bool by_row = layout == MatrixLayout::ct_packed;
  for (std::int64_t group = 0; group < m.num_groups(); ++group) {
    for (std::int64_t w = 0; w < words; ++w) {
      put_word(out, by_row ? w * m.num_groups() + group : group * words + w,
               zeros_word(m, layout, w * fields_of(m), group));
    }
  }
}

void pack_scales(const MatrixView& m, MatrixLayout layout, std::byte* out) {
  const std::int64_t groups = m.num_groups();
  if (layout == MatrixLayout::ct_packed) {
    std::copy_n(m.scales, m.n * groups * dtype_bits(m.scale_dtype) / 8, out);
    return;
  }
  for (std::int64_t row = 0; row < m.n; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto scale = load<std::uint16_t>(m.scales, row * groups + group);
      std::memcpy(out + (group * m.n + row) * 2, &scale, sizeof(scale));
    }
  }
}

void pack_g_idx(const MatrixView& m, MatrixLayout layout, std::byte* out) {
  NIB_CHECK(layout != MatrixLayout::awq, "AWQ has no g_idx");
  for (std::int64_t kk = 0; kk < m.k; ++kk) {
    const auto group =
        m.grouping.act_order ? load<std::int32_t>(m.g_idx, kk) : static_cast<std::int32_t>(kk / m.group_k());
    put_word(out, kk, static_cast<Word>(group));
  }
}

}  // namespace nibble::quant
