#include "kernels/cpu/pack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "quant/scales.h"

namespace nibble::kernels::cpu {
namespace {

using quant::WeightFormat;
using Step = std::array<std::uint32_t, kPanelRows>;

// Bytes of one row of codes on disk.
std::int64_t row_bytes(WeightFormat format, std::int64_t k) { return ceil_div(k * 4, step_k(format)); }

// Collects the low nibble of each byte in the low half, the high nibbles in the high half.
std::uint32_t split_nibbles(std::uint32_t x) {
  std::uint32_t lo = x & 0x0F0F0F0FU;
  std::uint32_t hi = (x >> 4) & 0x0F0F0F0FU;
  lo = (lo | (lo >> 4)) & 0x00FF00FFU;
  hi = (hi | (hi >> 4)) & 0x00FF00FFU;
  return ((lo | (lo >> 8)) & 0xFFFFU) | ((hi | (hi >> 8)) << 16);
}

// The inverse: nibble i of the low half becomes the low nibble of byte i, of the high half its high one.
std::uint32_t join_nibbles(std::uint32_t x) {
  std::uint32_t lo = x & 0xFFFFU;
  std::uint32_t hi = x >> 16;
  lo = (lo | (lo << 8)) & 0x00FF00FFU;
  hi = (hi | (hi << 8)) & 0x00FF00FFU;
  lo = (lo | (lo << 4)) & 0x0F0F0F0FU;
  hi = (hi | (hi << 4)) & 0x0F0F0F0FU;
  return lo | (hi << 4);
}

StepShuffle code_shuffle(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::bf16:
    case WeightFormat::int8: return StepShuffle::keep;
    case WeightFormat::f16:
    case WeightFormat::fp8: return StepShuffle::split_words;
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4:
    case WeightFormat::int4: return StepShuffle::split_nibbles;
  }
  return StepShuffle::keep;
}

// Writes one step of codes: words[lane] is each row's next 32 bits.
void store_step(WeightFormat format, const Step& words, std::byte* step) {
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::int8:
    case WeightFormat::bf16: std::memcpy(step, words.data(), kStepBytes); return;
    case WeightFormat::f16:
    case WeightFormat::fp8: {
      std::array<std::uint16_t, 2 * kPanelRows> halves;
      for (std::size_t r = 0; r < kPanelRows; ++r) {
        halves[r] = static_cast<std::uint16_t>(words[r]);
        halves[kPanelRows + r] = static_cast<std::uint16_t>(words[r] >> 16);
      }
      std::memcpy(step, halves.data(), kStepBytes);
      return;
    }
    case WeightFormat::mxfp4:
    case WeightFormat::int4:
    case WeightFormat::nvfp4: {
      Step split;
      for (std::size_t r = 0; r < kPanelRows; ++r) split[r] = split_nibbles(words[r]);
      std::memcpy(step, split.data(), kStepBytes);
      return;
    }
  }
}

// Word `s` of a row whose codes occupy `bytes` bytes; what lies past the end reads as zero.
std::uint32_t load_word(const std::byte* row, std::int64_t s, std::int64_t bytes) {
  std::uint32_t word = 0;
  const std::int64_t left = bytes - s * 4;
  if (left >= 4) {
    std::memcpy(&word, row + s * 4, 4);
  } else if (left > 0) {
    std::memcpy(&word, row + s * 4, static_cast<std::size_t>(left));
  }
  return word;
}

// Lanes [lane, lane + rows) of one panel's codes from consecutive source rows.
void pack_codes(WeightFormat format, const PanelSource& source, std::int64_t lane, std::int64_t rows,
                std::byte* panel, PackPanel pack_panel) {
  const std::int64_t bytes = source.row_bytes;
  const bool whole = rows == kPanelRows && pack_panel != nullptr;
  const std::int64_t packed = whole ? pack_panel(code_shuffle(format), source, panel) : 0;
  Step words;
  for (std::int64_t s = packed; s < ceil_div(bytes, 4); ++s) {
    std::byte* step = panel + s * kStepBytes;
    for (std::int64_t r = 0; r < kPanelRows; ++r) {
      words[static_cast<std::size_t>(r)] = r >= lane && r < lane + rows
                                               ? load_word(source.rows + (r - lane) * bytes, s, bytes)
                                               : unpack_step(format, step, r);
    }
    store_step(format, words, step);
  }
}

// float32 scales of source rows [src_row, src_row + rows) into lanes [lane, ...) of a panel's scales, and
// zeros if the panel has them.
void pack_wide_scales(WeightFormat format, const PanelLayout& l, const quant::MatrixView& src,
                      std::int64_t src_row, std::int64_t rows, std::int64_t lane, std::byte* panel) {
  const std::int64_t groups = src.num_groups();
  const std::int64_t rows_per_scale = src.rows_per_scale();
  const float factor = format == WeightFormat::fp8 ? kFp8ScaleFactor : 1.0F;
  const bool has_zeros = l.scale_bytes > kPanelRows * 4;
  for (std::int64_t begin = src_row; begin < src_row + rows;) {
    const std::int64_t scale_row = begin / rows_per_scale;
    const std::int64_t end = std::min((scale_row + 1) * rows_per_scale, src_row + rows);
    for (std::int64_t g = 0; g < groups; ++g) {
      const float scale = factor * quant::load_scale(src.scales, src.scale_dtype, scale_row * groups + g);
      std::byte* vector = panel + g * l.scale_bytes;
      for (std::int64_t r = begin; r < end; ++r) {
        std::memcpy(vector + (lane + r - src_row) * 4, &scale, 4);
        if (has_zeros) {
          vector[kPanelRows * 4 + lane + r - src_row] =
              src.zeros != nullptr ? src.zeros[r * groups + g] : std::byte{0};
        }
      }
    }
    begin = end;
  }
}

// Scales of a byte for every group of a row, likewise.
void pack_narrow_scales(const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows,
                        std::int64_t lane, std::byte* panel, PackPanel pack_panel) {
  const std::int64_t count = src.num_groups();
  const PanelSource source{.rows = src.scales + src_row * count, .row_bytes = count};
  const bool whole = rows == kPanelRows && pack_panel != nullptr;
  const std::int64_t packed = whole ? 4 * pack_panel(StepShuffle::split_bytes, source, panel) : 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = packed; i < count; ++i) {
      panel[i * kPanelRows + lane + r] = source.rows[r * count + i];
    }
  }
}

std::array<float, kPanelRows> filled(float value) {
  std::array<float, kPanelRows> values;
  values.fill(value);
  return values;
}

std::uint64_t splitmix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// Random bits of a step made into valid codes; `exponent` is log2 of the wanted magnitude.
std::uint64_t dummy_codes(WeightFormat format, std::uint64_t bits, int exponent) {
  switch (format) {
    case WeightFormat::f32:  // sign and mantissa random, value in [1, 2) * 2^exponent
      return (bits & 0x807FFFFF807FFFFFULL) |
             (static_cast<std::uint64_t>(127 + exponent) << 23) * 0x100000001ULL;
    case WeightFormat::f16:
      return (bits & 0x83FF83FF83FF83FFULL) |
             (static_cast<std::uint64_t>(15 + exponent) << 10) * 0x0001000100010001ULL;
    case WeightFormat::bf16:
      return (bits & 0x807F807F807F807FULL) |
             (static_cast<std::uint64_t>(127 + exponent) << 7) * 0x0001000100010001ULL;
    case WeightFormat::fp8:  // exponent field at most 7: magnitudes below 2, never NaN
      return bits & 0xBFBFBFBFBFBFBFBFULL;
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4:
    case WeightFormat::int4:
    case WeightFormat::int8: return bits;
  }
  return 0;
}

}  // namespace

std::uint32_t unpack_step(WeightFormat format, const std::byte* step, std::int64_t lane) {
  if (format == WeightFormat::f16 || format == WeightFormat::fp8) {
    std::uint16_t lo;
    std::uint16_t hi;
    std::memcpy(&lo, step + lane * 2, 2);
    std::memcpy(&hi, step + (kPanelRows + lane) * 2, 2);
    return static_cast<std::uint32_t>(lo) | static_cast<std::uint32_t>(hi) << 16;
  }
  std::uint32_t word;
  std::memcpy(&word, step + lane * 4, 4);
  return step_k(format) == 8 ? join_nibbles(word) : word;
}

void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
               std::int64_t src_row, std::int64_t rows, PackPanel pack_panel) {
  const WeightShape& shape = weight.shape;
  NIB_CHECK(src.format == shape.format && src.k == shape.k && src.grouping == shape.grouping &&
                src.layout == quant::MatrixLayout::rows,
            "packing {} k={} into {} k={}", format_name(src.format), src.k, format_name(shape.format),
            shape.k);
  NIB_CHECK(row >= 0 && row + rows <= shape.n && src_row >= 0 && src_row + rows <= src.n && group >= 0 &&
                group < shape.num_groups,
            "packing rows {}+{} of {} from {} of {}", row, rows, shape.n, src_row, src.n);
  const PanelLayout l = panel_layout(shape);
  std::byte* group_codes = weight.codes.data() + group * weight.codes_group_bytes;
  std::byte* group_scales = weight.scales.data() + group * weight.scales_group_bytes;
  const std::int64_t bytes = row_bytes(shape.format, src.k);
  for (std::int64_t done = 0; done < rows;) {
    const std::int64_t panel_idx = (row + done) / kPanelRows;
    const std::int64_t lane = (row + done) % kPanelRows;
    const std::int64_t count = std::min(kPanelRows - lane, rows - done);
    const PanelSource source{.rows = src.codes + (src_row + done) * bytes, .row_bytes = bytes};
    pack_codes(shape.format, source, lane, count, group_codes + panel_idx * l.panel_bytes, pack_panel);
    std::byte* scales = group_scales + panel_idx * l.scale_panel_bytes;
    if (l.scale_bytes > kPanelRows) {
      pack_wide_scales(shape.format, l, src, src_row + done, count, lane, scales);
    } else if (l.scale_k != 0) {
      pack_narrow_scales(src, src_row + done, count, lane, scales, pack_panel);
    }
    done += count;
  }
  // All rows of a group share the order of channels: whoever packs the first row brings it.
  if (shape.grouping.act_order && row == 0) {
    std::memcpy(group_scales + l.g_idx_offset, src.g_idx, static_cast<std::size_t>(shape.k) * 4);
  }
  if (l.globals_offset == 0) return;
  for (std::int64_t r = row; r < row + rows; ++r) {
    std::memcpy(group_scales + l.globals_offset + r * 4, &src.global_scale, 4);
  }
}

void fill_dummy(Weight& weight, std::uint64_t seed, ThreadPool& threads) {
  const WeightShape& shape = weight.shape;
  const PanelLayout l = panel_layout(shape);
  const double sigma = 1.0 / std::sqrt(static_cast<double>(shape.k));
  const int exponent = static_cast<int>(std::floor(std::log2(sigma)));
  // Root mean square of uniformly random codes: FP8 with exponents up to 7, E2M1, integers.
  constexpr double kRmsFp8 = 0.55;
  constexpr double kRmsFp4 = 2.93;
  constexpr double kRmsInt8 = 73.9;
  constexpr double kRmsInt4 = 4.64;
  threads.parallel_for(shape.num_groups * l.num_panels, [&](std::int64_t task, int) {
    const std::int64_t group = task / l.num_panels;
    const std::int64_t panel = task % l.num_panels;
    std::byte* codes = weight.codes.data() + group * weight.codes_group_bytes + panel * l.panel_bytes;
    const std::uint64_t base = splitmix(seed ^ splitmix(static_cast<std::uint64_t>(task)));
    for (std::int64_t i = 0; i < l.panel_bytes / 8; ++i) {
      const std::uint64_t word =
          dummy_codes(shape.format, splitmix(base + static_cast<std::uint64_t>(i)), exponent);
      std::memcpy(codes + i * 8, &word, 8);
    }
    if (l.scale_k == 0) return;
    std::byte* group_scales = weight.scales.data() + group * weight.scales_group_bytes;
    std::byte* scales = group_scales + panel * l.scale_panel_bytes;
    if (l.scale_bytes > kPanelRows) {
      const double rms = shape.format == WeightFormat::fp8    ? kRmsFp8 / kFp8ScaleFactor
                         : shape.format == WeightFormat::int8 ? kRmsInt8
                                                              : kRmsInt4;
      const std::array<float, kPanelRows> row_scales = filled(static_cast<float>(sigma / rms));
      for (std::int64_t i = 0; i < l.scale_panel_bytes; i += l.scale_bytes) {
        std::memcpy(scales + i, row_scales.data(), sizeof(row_scales));
      }
    } else if (shape.format == WeightFormat::mxfp4) {
      const int e8m0 = 127 + static_cast<int>(std::lround(std::log2(sigma / kRmsFp4)));
      std::memset(scales, e8m0, static_cast<std::size_t>(l.scale_panel_bytes));
    } else {
      const std::array<float, kPanelRows> globals = filled(static_cast<float>(sigma / kRmsFp4));
      std::memset(scales, 0x38, static_cast<std::size_t>(l.scale_panel_bytes));  // E4M3 1.0
      std::memcpy(group_scales + l.globals_offset + panel * kPanelRows * 4, globals.data(), sizeof(globals));
    }
  });
}

}  // namespace nibble::kernels::cpu
