// MatrixView: a logical weight matrix [n, k] (out, in) as it lies in a checkpoint. Plain data; owns
// nothing; pointers may be unaligned (they point into mapped files).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "nibble/result.h"
#include "quant/quant_format.h"

namespace nibble::quant {

struct MatrixView {
  WeightFormat format = WeightFormat::bf16;
  std::int64_t n = 0;
  std::int64_t k = 0;
  // f32/f16/bf16: [n, k] elements. fp8_block: [n, k] E4M3. mxfp4/nvfp4: [n, k/2] bytes, low nibble = even k.
  const std::byte* codes = nullptr;
  // fp8_block: [ceil(n/128), ceil(k/128)] F32, BF16 or E8M0, multiplied. mxfp4: [n, k/32] E8M0.
  // nvfp4: [n, k/16] E4M3.
  const std::byte* scales = nullptr;
  DType scale_dtype = DType::f32;
  float global_scale = 1.0F;  // nvfp4: multiplies (ModelOpt's weight_scale_2)
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
