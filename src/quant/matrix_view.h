// MatrixView: a logical weight matrix [n, k] (out, in) as it lies in a checkpoint. Plain data; owns
// nothing; pointers may be unaligned (they point into mapped files).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "nibble/result.h"
#include "quant/quant_format.h"

namespace nibble::quant {

// Where codes, scales and zeros lie. `rows` is the canonical layout, which everything but
// canonical_rows (int_layouts.h) expects; the others are the integer layouts of other tools.
enum class MatrixLayout : std::uint8_t {
  rows,
  gptq,       // codes I32 [k / P, n] packed along k, zeros I32 [groups, n / P], stored minus one
  gptq_v2,    // the same, zeros stored as they are
  awq,        // codes I32 [k, n / 8] packed along n in the order 0 2 4 6 1 3 5 7, zeros alike [groups, n / 8]
  ct_packed,  // compressed-tensors: codes I32 [n, ceil(k / P)], zeros I32 [ceil(n / P), groups]
};

struct MatrixView {
  WeightFormat format = WeightFormat::bf16;
  std::int64_t n = 0;
  std::int64_t k = 0;
  // f32/f16/bf16: [n, k] elements. fp8: [n, k] E4M3. mxfp4/nvfp4: [n, k/2] bytes, low nibble = even k.
  // int8: [n, k] signed bytes. int4: [n, k/2] bytes, low nibble = even k, stored plus 8.
  const std::byte* codes = nullptr;
  // G = number of groups of a row. fp8: [ceil(n / group_n), G] F32, BF16, F16 or E8M0, multiplied.
  // mxfp4: [n, k/32] E8M0. nvfp4: [n, k/16] E4M3. int8, int4: the same as fp8 without E8M0
  // (gptq, awq: [G, n]).
  const std::byte* scales = nullptr;
  DType scale_dtype = DType::f32;
  float global_scale = 1.0F;  // nvfp4: multiplies (ModelOpt's weight_scale_2)
  std::int64_t group_n = 0;   // fp8, int8: rows that share a scale; 0 = the format's own
  Grouping grouping;
  MatrixLayout layout = MatrixLayout::rows;
  // int8, int4 with grouping.zero_points: signed bytes [n, G], minus 128 or 8 like the codes.
  const std::byte* zeros = nullptr;
  // With grouping.act_order: I32 [k], the group of each k.
  const std::byte* g_idx = nullptr;

  [[nodiscard]] std::int64_t group_k() const noexcept {
    return grouping.group_k != 0 ? grouping.group_k : format_row(format).group_k;
  }
  [[nodiscard]] std::int64_t rows_per_scale() const noexcept {
    return group_n != 0 ? group_n : format_row(format).group_n;
  }
  // Groups of a row: 0 for unscaled formats.
  [[nodiscard]] std::int64_t num_groups() const noexcept {
    return group_k() == 0 ? 0 : (k + group_k() - 1) / group_k();
  }
};

// Decodes rows [row_begin, row_end) exactly to float32: out[(row - row_begin) * k + kk].
// The scalar definition of every format; nvfp4 multiplies code * scale * global in this order.
void dequantize_rows(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end, float* out);

// Looks for values no valid checkpoint holds: NaN or infinite weights and scales. Returns an error
// naming `name`, the element's row and column and the value. One pass over codes and scales.
Status check_finite(const MatrixView& matrix, std::string_view name);
// Of rows [row_begin, row_end) only.
Status check_finite(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end,
                    std::string_view name);

}  // namespace nibble::quant
