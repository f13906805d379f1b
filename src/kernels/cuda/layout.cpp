#include "kernels/cuda/layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "quant/float8.h"
#include "quant/scales.h"

namespace nibble::kernels::cuda {
namespace {

using quant::MatrixView;
using quant::WeightFormat;

static_assert(static_cast<int>(WeightFormat::f32) == static_cast<int>(Format::f32) &&
              static_cast<int>(WeightFormat::f16) == static_cast<int>(Format::f16) &&
              static_cast<int>(WeightFormat::bf16) == static_cast<int>(Format::bf16) &&
              static_cast<int>(WeightFormat::fp8) == static_cast<int>(Format::fp8) &&
              static_cast<int>(WeightFormat::mxfp4) == static_cast<int>(Format::mxfp4) &&
              static_cast<int>(WeightFormat::nvfp4) == static_cast<int>(Format::nvfp4) &&
              static_cast<int>(WeightFormat::int8) == static_cast<int>(Format::int8) &&
              static_cast<int>(WeightFormat::int4) == static_cast<int>(Format::int4));

// What one bulk copy needs, and what keeps a group's parts on lines of their own.
constexpr std::int64_t kRecordAlign = 16;
constexpr std::int64_t kGroupAlign = 128;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

Format device_format(WeightFormat format) { return static_cast<Format>(format); }

std::int64_t source_group_k(const WeightShape& shape) {
  return shape.grouping.group_k != 0 ? shape.grouping.group_k : quant::format_row(shape.format).group_k;
}

std::int64_t source_groups(const WeightShape& shape) {
  return ceil_div(shape.k, std::max<std::int64_t>(source_group_k(shape), 1));
}

// The group of every input, checked.
std::vector<std::int64_t> groups_of_inputs(const WeightShape& shape, const MatrixView& src) {
  const std::int64_t groups = source_groups(shape);
  std::vector<std::int64_t> group(static_cast<std::size_t>(shape.k));
  for (std::int64_t i = 0; i < shape.k; ++i) {
    std::int32_t g = 0;
    std::memcpy(&g, src.g_idx + i * 4, 4);
    NIB_CHECK(g >= 0 && g < groups, "input {} belongs to group {} of {}", i, g, groups);
    group[static_cast<std::size_t>(i)] = g;
  }
  return group;
}

// How packed columns come from inputs.
struct Columns {
  std::vector<std::int32_t> input;        // [packed columns], -1 = padding
  std::vector<std::int64_t> chunk_group;  // [packed columns / kChunkK] source group
};

Columns sorted_columns(const WeightShape& shape, const MatrixView& src, std::int64_t num_columns) {
  const std::vector<std::int64_t> group_of = groups_of_inputs(shape, src);
  std::vector<std::vector<std::int32_t>> inputs(static_cast<std::size_t>(source_groups(shape)));
  for (std::int64_t i = 0; i < shape.k; ++i) {
    const auto group = static_cast<std::size_t>(group_of[static_cast<std::size_t>(i)]);
    inputs[group].push_back(static_cast<std::int32_t>(i));
  }
  Columns columns;
  for (std::size_t g = 0; g < inputs.size(); ++g) {
    columns.input.insert(columns.input.end(), inputs[g].begin(), inputs[g].end());
    const auto padded = static_cast<std::size_t>(round_up(std::ssize(columns.input), kChunkK));
    columns.input.resize(padded, -1);
    columns.chunk_group.resize(padded / kChunkK, static_cast<std::int64_t>(g));
  }
  columns.input.resize(static_cast<std::size_t>(num_columns), -1);
  columns.chunk_group.resize(static_cast<std::size_t>(num_columns / kChunkK), 0);
  return columns;
}

// Exact for dividends whose product with the divisor stays below 2^32.
std::uint32_t division_magic(std::int64_t divisor) {
  return divisor <= 1 ? 0U : static_cast<std::uint32_t>((std::int64_t{1} << 32) / divisor + 1);
}

std::int64_t row_bytes(WeightFormat format, std::int64_t k) {
  return ceil_div(k * format_bits(device_format(format)), 8);
}

// The byte that fills columns of padding: codes that decode to zero.
std::byte padding_code(WeightFormat format) {
  return format == WeightFormat::int4 ? std::byte{0x88} : std::byte{0};
}

// Source rows [src_row, src_row + rows) are rows [first, first + rows) of a tile.
struct RowsOfTile {
  std::int64_t src_row;
  std::int64_t rows;
  std::int64_t first;
};

// Sixteen rows of codes in packed column order, padded.
class TileRows {
 public:
  // `memory` holds kTileRows rows of num_blocks blocks.
  TileRows(const WeightShape& shape, std::int64_t num_blocks, std::byte* memory)
      : shape_(shape), bytes_(row_bytes(shape.format, num_blocks * kBlockK)), memory_(memory) {}

  void load(const MatrixView& src, const Columns& columns, const RowsOfTile& at) {
    const std::byte padding = padding_code(shape_.format);
    std::fill(memory_, row(at.first), std::byte{0});
    std::fill(row(at.first + at.rows), row(kTileRows), std::byte{0});
    const std::int64_t src_bytes = row_bytes(shape_.format, shape_.k);
    for (std::int64_t r = 0; r < at.rows; ++r) {
      const std::byte* from = src.codes + (at.src_row + r) * src_bytes;
      std::byte* to = row(at.first + r);
      if (columns.input.empty()) {
        std::memcpy(to, from, static_cast<std::size_t>(src_bytes));
        std::fill(to + src_bytes, to + bytes_, padding);
      } else {
        std::fill(to, to + bytes_, padding);
        gather(from, columns, to);
      }
    }
    // An odd number of 4-bit inputs does not exist in checkpoints (codes_per_byte_group).
  }

  [[nodiscard]] std::byte* row(std::int64_t r) { return memory_ + r * bytes_; }

 private:
  void gather(const std::byte* from, const Columns& columns, std::byte* to) const {
    for (std::size_t c = 0; c < columns.input.size(); ++c) {
      if (columns.input[c] < 0) continue;
      const auto kk = static_cast<std::size_t>(columns.input[c]);
      if (shape_.format == WeightFormat::int8) {
        to[c] = from[kk];
        continue;
      }
      const auto code = (from[kk / 2] >> (kk % 2 * 4)) & std::byte{0x0F};
      const auto keep = to[c / 2] & (c % 2 == 0 ? std::byte{0xF0} : std::byte{0x0F});
      to[c / 2] = keep | (code << (c % 2 * 4));
    }
  }

  const WeightShape& shape_;
  std::int64_t bytes_;
  std::byte* memory_;
};

// Where the scale of (row of the tile, group of the row) lies in a tile's narrow scales.
std::int64_t narrow_index(Format format, std::int64_t row, std::int64_t group) {
  const std::int64_t per_block = format == Format::mxfp4 ? 2 : 4;
  return group / per_block * scale_block_bytes(format) + row % 8 * 2 * per_block + row / 8 * per_block +
         group % per_block;
}

// Groups of a row's narrow scales, those of padding columns among them.
std::int64_t narrow_groups(const PackedLayout& l, Format format) {
  return l.num_blocks * (format == Format::mxfp4 ? 2 : 4);
}

void store_factor(std::byte* factors, std::int64_t row, float value) {
  std::memcpy(factors + row * 4, &value, 4);
}

// The bf16 multiplier 2^(scale - 127 + 126) must be finite: exponent field at most 254. Every row's largest
// scale has that one, so that kernels know a row's range without looking (layout.h).
constexpr int kMaxField = 254;
constexpr int kFieldOfScale = 126;  // field - E8M0 code
constexpr std::byte kMxOne{127 + kFieldOfScale};

void pack_mx_row(const MatrixView& src, std::int64_t src_row, std::int64_t row, std::byte* scales,
                 std::byte* factors) {
  const std::int64_t groups = src.num_groups();
  const std::byte* from = src.scales + src_row * groups;
  int largest = 0;
  for (std::int64_t g = 0; g < groups; ++g) largest = std::max(largest, std::to_integer<int>(from[g]));
  const int excess = largest + kFieldOfScale - kMaxField;
  for (std::int64_t g = 0; g < groups; ++g) {
    const int field = std::max(0, std::to_integer<int>(from[g]) + kFieldOfScale - excess);
    scales[narrow_index(Format::mxfp4, row, g)] = static_cast<std::byte>(field);
  }
  store_factor(factors, row, std::ldexp(1.0F, excess));
}

constexpr int kE5m3Bias = 21;
constexpr float kNvFactor = 256.0F;
constexpr std::byte kNvOne{kE5m3Bias << 3};

// A positive E4M3 value as E5M3, exactly.
std::byte to_e5m3(float value) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);  // value = fraction * 2^exponent, in [0.5, 1)
  const auto mantissa = static_cast<int>(fraction * 16.0F) - 8;
  return static_cast<std::byte>(((exponent - 1 + kE5m3Bias) << 3) | mantissa);
}

// Takes the sign of a scale, or its being zero, into the codes of its group (8 bytes).
void fold_into_codes(float scale, std::byte* codes) {
  const std::byte sign = std::signbit(scale) ? std::byte{0x88} : std::byte{0};
  const std::byte keep = scale == 0.0F ? std::byte{0x88} : std::byte{0xFF};
  for (int i = 0; i < 8; ++i) codes[i] = (codes[i] & keep) ^ sign;
}

// What becomes of an E4M3 scale.
struct NvScale {
  std::byte e5m3;
  bool folds;  // into the codes
};
const std::array<NvScale, 256>& nv_scales() {
  static const std::array<NvScale, 256> table = [] {
    std::array<NvScale, 256> scales;
    for (std::size_t code = 0; code < scales.size(); ++code) {
      const float scale = quant::e4m3_to_float(static_cast<std::uint8_t>(code));
      scales[code] = {.e5m3 = scale == 0.0F || !std::isfinite(scale) ? kNvOne : to_e5m3(std::abs(scale)),
                      .folds = scale == 0.0F || std::signbit(scale)};
    }
    return scales;
  }();
  return table;
}

void pack_nv_row(const MatrixView& src, std::int64_t src_row, std::int64_t row, std::byte* codes,
                 std::byte* scales, std::byte* factors) {
  const std::array<NvScale, 256>& table = nv_scales();
  const std::int64_t groups = src.num_groups();
  const std::byte* from = src.scales + src_row * groups;
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto code = std::to_integer<std::uint8_t>(from[g]);
    const NvScale scale = table[code];
    if (scale.folds) fold_into_codes(quant::e4m3_to_float(code), codes + g * 8);
    scales[narrow_index(Format::nvfp4, row, g)] = scale.e5m3;
  }
  store_factor(factors, row, src.global_scale * kNvFactor);
}

void pack_narrow_scales(const PackedLayout& l, const MatrixView& src, const RowsOfTile& at, TileRows& codes,
                        std::byte* scales) {
  const bool mx = src.format == WeightFormat::mxfp4;
  const Format format = device_format(src.format);
  std::byte* factors = scales + l.factors_offset;
  std::fill(scales, scales + l.tile_scale_bytes, std::byte{0});
  for (std::int64_t r = at.first; r < at.first + at.rows; ++r) {
    const std::int64_t src_row = at.src_row + r - at.first;
    for (std::int64_t g = src.num_groups(); g < narrow_groups(l, format); ++g) {
      scales[narrow_index(format, r, g)] = mx ? kMxOne : kNvOne;
    }
    if (mx) {
      pack_mx_row(src, src_row, r, scales, factors);
    } else {
      pack_nv_row(src, src_row, r, codes.row(r), scales, factors);
    }
  }
}

void pack_wide_scales(const PackedLayout& l, const MatrixView& src, const Columns& columns,
                      const RowsOfTile& rows, std::byte* scales) {
  const std::int64_t groups = src.num_groups();
  std::fill(scales, scales + l.tile_scale_bytes, std::byte{0});
  for (std::int64_t packed = 0; packed < l.scale_groups; ++packed) {
    const std::int64_t g =
        columns.chunk_group.empty() ? packed : columns.chunk_group[static_cast<std::size_t>(packed)];
    for (std::int64_t r = rows.first; r < rows.first + rows.rows; ++r) {
      const std::int64_t at = packed * kTileRows + r;
      const std::int64_t row = rows.src_row + r - rows.first;
      const float scale =
          quant::load_scale(src.scales, src.scale_dtype, row / src.rows_per_scale() * groups + g);
      std::memcpy(scales + at * 4, &scale, 4);
      if (l.zeros_offset != 0) scales[l.zeros_offset + at] = src.zeros[row * groups + g];
    }
  }
}

}  // namespace

PackedLayout packed_layout(const WeightShape& shape) {
  const Format format = device_format(shape.format);
  PackedLayout l;
  l.num_tiles = ceil_div(shape.n, kTileRows);
  const std::int64_t columns = shape.grouping.act_order
                                   ? (shape.k + (kChunkK - 1) * source_groups(shape)) / kChunkK * kChunkK
                                   : shape.k;
  l.num_blocks = ceil_div(columns, kBlockK);
  l.tile_code_bytes = l.num_blocks * block_bytes(format);
  if (has_narrow_scales(format)) {
    l.factors_offset = l.num_blocks * scale_block_bytes(format);
    l.tile_scale_bytes = l.factors_offset + kTileRows * 4;
  } else if (has_wide_scales(format)) {
    const bool per_row = source_group_k(shape) >= shape.k && !shape.grouping.act_order;
    const std::int64_t all_chunks = l.num_blocks * (kBlockK / kChunkK);
    l.chunks_per_scale = shape.grouping.act_order ? 1
                         : per_row                ? all_chunks
                                                  : source_group_k(shape) / kChunkK;
    l.scale_groups = shape.grouping.act_order ? all_chunks : source_groups(shape);
    const std::int64_t scale_bytes = l.scale_groups * kTileRows * 4;
    if (shape.grouping.zero_points) l.zeros_offset = scale_bytes;
    l.tile_scale_bytes =
        round_up(scale_bytes + (shape.grouping.zero_points ? l.scale_groups * kTileRows : 0), kRecordAlign);
  }
  l.group_code_bytes = l.num_tiles * l.tile_code_bytes;
  l.group_scale_bytes = round_up(l.num_tiles * l.tile_scale_bytes, kGroupAlign);
  if (shape.grouping.act_order) {
    l.permutation_offset = l.group_scale_bytes;
    l.permutation_bytes = l.num_blocks * kBlockK * 4;
    l.group_scale_bytes = round_up(l.group_scale_bytes + l.permutation_bytes, kGroupAlign);
  }
  return l;
}

std::size_t weight_bytes(const WeightShape& shape) {
  const PackedLayout l = packed_layout(shape);
  return static_cast<std::size_t>(shape.num_groups * (l.group_code_bytes + l.group_scale_bytes));
}

namespace {

void check_rows(const WeightShape& shape, const MatrixView& src, std::int64_t src_row, std::int64_t rows) {
  NIB_CHECK(src.format == shape.format && src.k == shape.k && src.grouping == shape.grouping &&
                src.layout == quant::MatrixLayout::rows && src_row >= 0 && src_row + rows <= src.n,
            "packing rows {}+{} of {} {} k={} into {} k={}", src_row, rows, src.n, format_name(src.format),
            src.k, format_name(shape.format), shape.k);
}

// Stages tile after tile with the same columns.
class TileStager {
 public:
  TileStager(const WeightShape& shape, const MatrixView& src)
      : shape_(shape), src_(src), l_(packed_layout(shape)) {
    if (shape.grouping.act_order) columns_ = sorted_columns(shape, src, l_.num_blocks * kBlockK);
  }

  void stage(const RowsOfTile& rows, std::byte* codes, std::byte* scales) const {
    TileRows tile(shape_, l_.num_blocks, codes);
    tile.load(src_, columns_, rows);
    if (has_narrow_scales(device_format(shape_.format))) {
      pack_narrow_scales(l_, src_, rows, tile, scales);
    } else if (l_.scale_groups != 0) {
      pack_wide_scales(l_, src_, columns_, rows, scales);
    }
  }
  [[nodiscard]] const PackedLayout& layout() const { return l_; }

 private:
  const WeightShape& shape_;
  const MatrixView& src_;
  PackedLayout l_;
  Columns columns_;
};

}  // namespace

void stage_tiles(const WeightShape& shape, const MatrixView& src, std::int64_t src_row, std::int64_t rows,
                 std::byte* codes, std::byte* scales) {
  check_rows(shape, src, src_row, rows);
  const TileStager stager(shape, src);
  for (std::int64_t begin = 0; begin < rows; begin += kTileRows) {
    stager.stage({src_row + begin, std::min<std::int64_t>(kTileRows, rows - begin), 0}, codes, scales);
    codes += stager.layout().tile_code_bytes;
    if (stager.layout().tile_scale_bytes != 0) scales += stager.layout().tile_scale_bytes;
  }
}

void stage_tile(const WeightShape& shape, const MatrixView& src, std::int64_t src_row, std::int64_t rows,
                std::int64_t first, std::byte* codes, std::byte* scales) {
  check_rows(shape, src, src_row, rows);
  NIB_CHECK(first >= 0 && first + rows <= kTileRows, "rows {}+{} of a tile", first, rows);
  TileStager(shape, src).stage({src_row, rows, first}, codes, scales);
}

void copy_row_scales(const WeightShape& shape, std::int64_t row, const std::byte* from, std::byte* to) {
  const PackedLayout l = packed_layout(shape);
  const Format format = device_format(shape.format);
  const auto copy = [&](std::int64_t at, std::int64_t bytes) { std::copy_n(from + at, bytes, to + at); };
  if (has_narrow_scales(format)) {
    for (std::int64_t g = 0; g < narrow_groups(l, format); ++g) copy(narrow_index(format, row, g), 1);
    copy(l.factors_offset + row * 4, 4);
    return;
  }
  for (std::int64_t g = 0; g < l.scale_groups; ++g) {
    copy((g * kTileRows + row) * 4, 4);
    if (l.zeros_offset != 0) copy(l.zeros_offset + g * kTileRows + row, 1);
  }
}

void pack_permutation(const WeightShape& shape, const MatrixView& src, std::byte* permutation) {
  const PackedLayout l = packed_layout(shape);
  const Columns columns = sorted_columns(shape, src, l.num_blocks * kBlockK);
  std::memcpy(permutation, columns.input.data(), columns.input.size() * 4);
}

PackedWeight packed_weight(const Weight& weight) {
  const WeightShape& shape = weight.shape;
  const PackedLayout l = packed_layout(shape);
  return {.codes = weight.codes.data(),
          .scales = weight.scales.data(),
          .tile_code_bytes = l.tile_code_bytes,
          .tile_scale_bytes = l.tile_scale_bytes,
          .group_code_bytes = l.group_code_bytes,
          .group_scale_bytes = l.group_scale_bytes,
          .permutation_offset = l.permutation_offset,
          .factors_offset = static_cast<std::int32_t>(l.factors_offset),
          .zeros_offset = static_cast<std::int32_t>(l.zeros_offset),
          .n = static_cast<std::int32_t>(shape.n),
          .k = static_cast<std::int32_t>(shape.k),
          .num_tiles = static_cast<std::int32_t>(l.num_tiles),
          .num_blocks = static_cast<std::int32_t>(l.num_blocks),
          .num_groups = static_cast<std::int32_t>(shape.num_groups),
          .scale_groups = static_cast<std::int32_t>(l.scale_groups),
          .chunks_per_scale = static_cast<std::int32_t>(l.chunks_per_scale),
          .scale_magic = division_magic(l.chunks_per_scale),
          .format = device_format(shape.format)};
}

}  // namespace nibble::kernels::cuda
