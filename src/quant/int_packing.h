// Canonical int4 and int8 matrices written in the layouts of other tools: the inverse of canonical_rows.
//
// Shapes of the tensors of a matrix [n, k] with G groups of a row and P = 32 / bits codes a word:
//
//              codes (I32)          zeros (I32)            scales                  g_idx
//   gptq       qweight [k / P, n]   qzeros [G, n / P]      scales F16 [G, n]       I32 [k]
//   gptq_v2    the same             the same, see below    the same                the same
//   awq        qweight [k, n / 8]   qzeros [G, n / 8]      scales F16 [G, n]       none
//   ct_packed  weight_packed        weight_zero_point      weight_scale [n, G],    weight_g_idx I32 [k]
//              [n, ceil(k / P)]     [ceil(n / P), G]       the matrix's dtype      if act_order
//
// All codes and zeros are unsigned there (plus 2^(bits - 1)); gptq stores zeros minus one, modulo 2^bits.
// gptq, gptq_v2 and awq have zeros also for symmetric matrices; ct_packed only with zero_points.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::quant {

// Sizes in bytes; 0 = the layout has no such tensor for this matrix.
struct PackedBytes {
  std::int64_t codes = 0;
  std::int64_t zeros = 0;
  std::int64_t scales = 0;
  std::int64_t g_idx = 0;
};

// What pack_* will write. bad_input if the layout cannot hold the matrix: n or k that fill no whole words,
// scales that are not F16 (the codes were chosen against another rounding: encode with scale_dtype F16), int8
// or reordered channels in AWQ, a short last group in AWQ. The message has no tensor name.
Result<PackedBytes> packed_bytes(const MatrixView& matrix, MatrixLayout layout);

// Each writes one whole tensor to `out` (PackedBytes of it); pointers need no alignment. `matrix` is
// canonical and packed_bytes accepts it.
void pack_codes(const MatrixView& matrix, MatrixLayout layout, std::byte* out);
void pack_zeros(const MatrixView& matrix, MatrixLayout layout, std::byte* out);
void pack_scales(const MatrixView& matrix, MatrixLayout layout, std::byte* out);
void pack_g_idx(const MatrixView& matrix, MatrixLayout layout, std::byte* out);

}  // namespace nibble::quant
