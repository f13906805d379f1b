#include "formats/matrix_spelling.h"

#include <array>
#include <cstring>

#include "core/check.h"
#include "quant/int_layouts.h"
#include "quant/int_packing.h"

namespace nibble::formats {
namespace {

using quant::MatrixView;
using quant::WeightFormat;

constexpr std::int64_t kBlock = 128;

std::int64_t scale_rows(const MatrixView& m) { return (m.n + m.rows_per_scale() - 1) / m.rows_per_scale(); }

std::span<const std::byte> bytes_of(const std::byte* data, std::int64_t size) {
  return {data, static_cast<std::size_t>(size)};
}

std::span<const std::byte> code_bytes(const MatrixView& m) {
  return bytes_of(m.codes, m.n * quant::code_row_bytes(m.format, m.k));
}

std::span<const std::byte> scale_bytes(const MatrixView& m) {
  return bytes_of(m.scales, scale_rows(m) * m.num_groups() * dtype_bits(m.scale_dtype) / 8);
}

template <class T>
std::span<const std::byte> value_bytes(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

DType plain_dtype(WeightFormat format) {
  return format == WeightFormat::f32 ? DType::f32 : format == WeightFormat::f16 ? DType::f16 : DType::bf16;
}

constexpr quant::MatrixLayout kGptq = quant::MatrixLayout::gptq;

std::vector<TensorHeader> gptq_tensors(const std::string& module, const MatrixView& m) {
  const std::int64_t fields = 32 / quant::format_row(m.format).bits;
  return {{module + ".qweight", DType::i32, {m.k / fields, m.n}},
          {module + ".qzeros", DType::i32, {m.num_groups(), m.n / fields}},
          {module + ".scales", DType::f16, {m.num_groups(), m.n}},
          {module + ".g_idx", DType::i32, {m.k}}};
}

Status write_gptq(const MatrixView& m, const WriteTensor& write) {
  NIB_TRY(const quant::PackedBytes sizes, quant::packed_bytes(m, kGptq));
  std::vector<std::byte> bytes;
  const auto write_packed = [&](std::size_t index, auto pack, std::int64_t size) {
    bytes.assign(static_cast<std::size_t>(size), std::byte{0});
    pack(m, kGptq, bytes.data());
    return write(index, bytes);
  };
  NIB_TRY_STATUS(write_packed(0, quant::pack_codes, sizes.codes));
  NIB_TRY_STATUS(write_packed(1, quant::pack_zeros, sizes.zeros));
  NIB_TRY_STATUS(write_packed(2, quant::pack_scales, sizes.scales));
  return write_packed(3, quant::pack_g_idx, sizes.g_idx);
}

}  // namespace

std::string why_unspellable(const MatrixView& m) {
  const bool by_row = m.rows_per_scale() == 1 && m.num_groups() == 1;
  switch (m.format) {
    case WeightFormat::fp8:
      return m.rows_per_scale() == kBlock && m.group_k() == kBlock ? ""
                                                                   : "its scales are not of 128 x 128 blocks";
    case WeightFormat::int8:
      return by_row && m.layout == quant::MatrixLayout::rows ? "" : "it has not one scale per row";
    case WeightFormat::int4: return "its integers are packed in the layout of another tool";
    default: return "";
  }
}

std::vector<TensorHeader> matrix_tensors(std::string_view module, const MatrixView& m, QuantMethod method) {
  const auto named = [&](std::string_view suffix, DType dtype, std::vector<std::int64_t> shape) {
    return TensorHeader{std::string(module).append(suffix), dtype, std::move(shape)};
  };
  if (method == QuantMethod::gptq && m.num_groups() != 0) return gptq_tensors(std::string(module), m);
  const bool packed = method == QuantMethod::compressed_tensors;
  const TensorHeader scale =
      named(method == QuantMethod::fp8 ? ".weight_scale_inv" : ".weight_scale",
            m.format == WeightFormat::mxfp4 ? DType::u8 : m.scale_dtype, {scale_rows(m), m.num_groups()});
  switch (m.format) {
    case WeightFormat::fp8: return {named(".weight", DType::f8_e4m3, {m.n, m.k}), scale};
    case WeightFormat::mxfp4: return {named(".weight_packed", DType::u8, {m.n, m.k / 2}), scale};
    case WeightFormat::nvfp4:
      return {
          named(packed ? ".weight_packed" : ".weight", DType::u8, {m.n, m.k / 2}), scale,
          packed ? named(".weight_global_scale", DType::f32, {1}) : named(".weight_scale_2", DType::f32, {})};
    case WeightFormat::int8: return {named(".weight", DType::i8, {m.n, m.k}), scale};
    case WeightFormat::int4:
      return {named(".weight_packed", DType::i32, {m.n, (m.k + 7) / 8}), scale,
              named(".weight_shape", DType::i64, {2})};
    default: return {named(".weight", plain_dtype(m.format), {m.n, m.k})};
  }
}

Status write_matrix(const MatrixView& m, QuantMethod method, const WriteTensor& write) {
  NIB_CHECK(m.layout == quant::MatrixLayout::rows, "the matrix is not canonical");
  if (method == QuantMethod::gptq && m.num_groups() != 0) return write_gptq(m, write);
  if (m.format == WeightFormat::int4) {
    std::vector<std::byte> words(static_cast<std::size_t>(m.n * ((m.k + 7) / 8) * 4));
    quant::pack_codes(m, quant::MatrixLayout::ct_packed, words.data());
    NIB_TRY_STATUS(write(0, words));
    NIB_TRY_STATUS(write(1, scale_bytes(m)));
    const std::array shape = {m.n, m.k};
    return write(2, value_bytes(shape));
  }
  NIB_TRY_STATUS(write(0, code_bytes(m)));
  if (m.num_groups() == 0) return {};
  NIB_TRY_STATUS(write(1, scale_bytes(m)));
  if (m.format != WeightFormat::nvfp4) return {};
  const float divisor = 1.0F / m.global_scale;
  return write(2, value_bytes(method == QuantMethod::compressed_tensors ? divisor : m.global_scale));
}

float reciprocal_scale(float scale) noexcept { return 1.0F / (1.0F / scale); }

}  // namespace nibble::formats
