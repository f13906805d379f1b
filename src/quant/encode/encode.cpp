#include "quant/encode/encode.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <new>

#include "core/check.h"
#include "quant/encode/encoder.h"
#include "quant/int_layouts.h"

namespace nibble::quant {
namespace {

const std::array kEncoders = {&kF32Encoder,   &kF16Encoder,   &kBf16Encoder, &kFp8Encoder,
                              &kMxfp4Encoder, &kNvfp4Encoder, &kInt8Encoder, &kInt4Encoder};

// Far above any tensor, and low enough that n * k * 4 cannot overflow.
constexpr std::int64_t kMaxDim = std::int64_t{1} << 30;

bool is_integer(WeightFormat format) { return format == WeightFormat::int8 || format == WeightFormat::int4; }

std::int64_t wanted_group_k(std::int64_t k, const EncodeOptions& options) {
  const bool by_row = options.format == WeightFormat::int8 && options.group_k == 0;
  if (by_row || options.group_k == kWholeRow) return k;
  return options.group_k != 0 ? options.group_k : format_row(options.format).group_k;
}

Status check_shape(std::int64_t n, std::int64_t k, const EncodeOptions& options) {
  const FormatRow& row = format_row(options.format);
  if (n < 0 || k < 0 || n > kMaxDim || k > kMaxDim) {
    return bad_input(
        fmt::format("a matrix of {} x {} cannot be encoded; at most {} either way", n, k, kMaxDim));
  }
  const int multiple = row.any_group || row.group_k == 0 ? row.codes_per_byte_group : row.group_k;
  if (k % multiple != 0) {
    return bad_input(fmt::format("{} input channels cannot be encoded as {}; expected a multiple of {}", k,
                                 row.name, multiple));
  }
  return {};
}

Status check_grouping(std::int64_t k, const EncodeOptions& options) {
  const FormatRow& row = format_row(options.format);
  const std::int64_t group_k = wanted_group_k(k, options);
  if (!row.any_group && group_k != row.group_k) {
    return bad_input(fmt::format("{} has {}, not groups of {}", row.name,
                                 row.group_k == 0 ? "no groups" : fmt::format("groups of {}", row.group_k),
                                 group_k));
  }
  if (row.any_group && group_k != k && (group_k <= 0 || group_k % 32 != 0)) {
    return bad_input(fmt::format("groups of {} in {}; expected a multiple of 32, or one group per row",
                                 group_k, row.name));
  }
  if (options.group_n < 0 || (options.group_n > 1 && options.format != WeightFormat::fp8)) {
    return bad_input(fmt::format("{} rows that share a scale in {}; only fp8 has blocks of rows",
                                 options.group_n, row.name));
  }
  if (options.zero_points && !is_integer(options.format)) {
    return bad_input(fmt::format("{} has no zero points; int8 and int4 do", row.name));
  }
  return {};
}

Result<DType> scale_dtype_of(const EncodeOptions& options) {
  using enum DType;
  const auto choose = [&](DType preferred, std::initializer_list<DType> others) -> Result<DType> {
    const DType wanted = options.scale_dtype.value_or(preferred);
    if (wanted == preferred || std::ranges::find(others, wanted) != others.end()) return wanted;
    return bad_input(fmt::format("{} scales of {}; expected {}", dtype_name(wanted),
                                 format_name(options.format), dtype_name(preferred)));
  };
  switch (options.format) {
    case WeightFormat::fp8: return choose(f32, {bf16, f16, f8_e8m0});
    case WeightFormat::mxfp4: return choose(f8_e8m0, {});
    case WeightFormat::nvfp4: return choose(f8_e4m3, {});
    case WeightFormat::int8:
    case WeightFormat::int4: return choose(bf16, {f16, f32});
    default: return choose(f32, {});
  }
}

// Number of scales.
std::int64_t count_scales(const MatrixView& m) {
  const std::int64_t block_rows = m.group_n != 0 ? m.group_n : 1;
  return (m.n + block_rows - 1) / block_rows * m.num_groups();
}

const Encoder& encoder(WeightFormat format) {
  const auto* const found = std::ranges::find(kEncoders, format, &Encoder::format);
  NIB_CHECK(found != kEncoders.end(), "weight format {} has no encoder", static_cast<int>(format));
  return **found;
}

}  // namespace

float nvfp4_global_scale(float amax) noexcept {
  constexpr float kLargestProduct = 6.0F * 448.0F;
  constexpr float kSmallest = 0x1p-100F;   // 1 / (2^-9 * global) is finite
  constexpr float kLargest = 0x1.86p116F;  // 6 * 448 * global is
  return amax == 0.0F ? 1.0F : std::clamp(amax / kLargestProduct, kSmallest, kLargest);
}

float abs_max(std::span<const float> weights) noexcept {
  return std::bit_cast<float>(abs_max_bits(weights.data(), static_cast<std::int64_t>(weights.size())));
}

Result<EncodedMatrix> EncodedMatrix::allocate(std::int64_t n, std::int64_t k, const EncodeOptions& options) {
  NIB_TRY_STATUS(check_shape(n, k, options));
  NIB_TRY_STATUS(check_grouping(k, options));
  EncodedMatrix matrix;
  matrix.options_ = options;
  MatrixView& view = matrix.view_;
  view = {.format = options.format, .n = n, .k = k};
  NIB_TRY(view.scale_dtype, scale_dtype_of(options));
  const std::int64_t group_k = wanted_group_k(k, options);
  view.grouping = {.group_k = group_k == format_row(options.format).group_k ? 0 : group_k,
                   .zero_points = options.zero_points};
  if (options.format == WeightFormat::nvfp4) view.global_scale = options.global_scale;
  if (options.format == WeightFormat::fp8) {
    view.group_n = options.group_n != 0 ? options.group_n : format_row(options.format).group_n;
  }
  const std::int64_t num_scales = count_scales(view);
  try {
    matrix.codes_ = Buffer(static_cast<std::size_t>(n * code_row_bytes(options.format, k)));
    matrix.scales_ = Buffer(static_cast<std::size_t>(num_scales * dtype_bits(view.scale_dtype) / 8));
    matrix.zeros_ = Buffer(static_cast<std::size_t>(options.zero_points ? num_scales : 0));
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("no memory for {} x {} weights in {}", n, k, format_name(options.format)));
  }
  view.codes = matrix.codes_.data();
  view.scales = matrix.scales_.data();
  view.zeros = matrix.zeros_.data();
  return matrix;
}

std::int64_t EncodedMatrix::rows_per_block() const noexcept { return view_.group_n != 0 ? view_.group_n : 1; }

void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, EncodedMatrix& out) {
  const MatrixView view = out.view();
  const std::int64_t block = out.rows_per_block();
  NIB_CHECK(row_begin >= 0 && row_begin <= row_end && row_end <= view.n, "rows {}..{} of {}", row_begin,
            row_end, view.n);
  NIB_CHECK(row_begin % block == 0 && (row_end % block == 0 || row_end == view.n),
            "rows {}..{} of {} are not whole blocks of {}", row_begin, row_end, view.n, block);
  encoder(view.format)
      .encode_rows(rows, row_begin, row_end,
                   {.view = view,
                    .options = out.options(),
                    .codes = reinterpret_cast<std::uint8_t*>(out.codes().data()),
                    .scales = out.scales().data(),
                    .zeros = reinterpret_cast<std::int8_t*>(out.zeros().data())});
}

}  // namespace nibble::quant
