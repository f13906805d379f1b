// The encoders: float32 rows into the canonical bytes of a format (MatrixView, layout rows).
//
//   NIB_TRY(EncodedMatrix encoded, EncodedMatrix::allocate(n, k, {.format = WeightFormat::mxfp4}));
//   encode_rows(rows, begin, end, encoded);  // any threads, disjoint blocks of rows
//
// Codes are the nearest ones to w / scale, ties to even, saturated; the scale is the one that is stored,
// after its rounding to scale_dtype. Decoded weights are finite whatever the input: scales stop where a
// product could overflow (weights beyond 1e36 saturate) or vanish. Weights must be finite: ask abs_max
// first, which every quantiser needs anyway. A group of zeros gets scale 1 (E8M0: 2^-126, DeepSeek's floor).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/buffer.h"
#include "core/dtype.h"
#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::quant {

// How the scale of a group follows from its weights.
//
//            plain                                   searched: least squared error among
//   mxfp4    2^ceil(log2(amax / 6)), DeepSeek's      this exponent and the next lower one
//   nvfp4    e4m3(amax / (6 global)), ModelOpt's     the E4M3 codes around it
//   int4     amax / 7.5 (compressed-tensors)         108 % to 50 % of that scale
//   int8     amax / 127                              the same
//   fp8      amax / 448                              the same as plain
//
// With zero_points the range [min(w, 0), max(w, 0)] takes the place of amax: scale = range / (2^bits - 1),
// zero = round(-min / scale), as AWQ and GPTQ do it. fp8 with F8_E8M0 scales rounds them up to powers of
// two (scale_fmt ue8m0). Searched scales never have a larger squared error than plain ones.
enum class ScaleRule : std::uint8_t { plain, searched };

inline constexpr std::int64_t kWholeRow = -1;

struct EncodeOptions {
  WeightFormat format = WeightFormat::mxfp4;
  // fp8, int8, int4: weights along k that share a scale: a multiple of 32, or kWholeRow. 0: 128 for fp8
  // and int4, kWholeRow for int8. The last group may be short. Other formats: 0, they have one group size.
  std::int64_t group_k = 0;
  std::int64_t group_n = 0;  // fp8: rows that share a scale; 0 = 128, 1 = per channel
  // fp8: F32 (default), BF16, F16, F8_E8M0. int8, int4: BF16 (default), F16, F32.
  std::optional<DType> scale_dtype;
  ScaleRule scales = ScaleRule::plain;
  bool zero_points = false;   // int8, int4
  float global_scale = 1.0F;  // nvfp4: see nvfp4_global_scale
};

// nvfp4: amax / (6 * 448) of all matrices that share it: gate and up of one module must. Positive, also
// for a matrix of zeros (1) and for amax so small that the quotient would vanish.
float nvfp4_global_scale(float amax) noexcept;

// Largest |w|, or infinity or NaN if any weight is: the cheap check for input that cannot be encoded.
float abs_max(std::span<const float> weights) noexcept;

// Codes, scales and zeros of one matrix [n, k] in the canonical layout.
class EncodedMatrix {
 public:
  // bad_input for shapes and options that the format cannot hold (odd k, k that is no multiple of the group
  // size, a group size that is no multiple of 32, zero points of a format without them ...); the message has
  // no tensor name, add one with with_context. out_of_memory if the memory is not there.
  static Result<EncodedMatrix> allocate(std::int64_t n, std::int64_t k, const EncodeOptions& options);

  // Valid as long as this object lives, also while rows are being written.
  [[nodiscard]] MatrixView view() const noexcept { return view_; }
  [[nodiscard]] const EncodeOptions& options() const noexcept { return options_; }

  // The tensors as they go into a file; shapes as in MatrixView. Empty where the format has none.
  [[nodiscard]] std::span<std::byte> codes() const noexcept { return codes_.bytes(); }
  [[nodiscard]] std::span<std::byte> scales() const noexcept { return scales_.bytes(); }
  [[nodiscard]] std::span<std::byte> zeros() const noexcept { return zeros_.bytes(); }

  // Row ranges of encode_rows begin at multiples of this (fp8: group_n; else 1), and end at one or at n.
  [[nodiscard]] std::int64_t rows_per_block() const noexcept;

 private:
  EncodedMatrix() = default;

  EncodeOptions options_;
  MatrixView view_;
  Buffer codes_;
  Buffer scales_;
  Buffer zeros_;
};

// Encodes rows [row_begin, row_end); rows[(row - row_begin) * k + kk] are their weights, all finite.
// Touches only these rows of `out`: threads may encode different rows of one matrix.
void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, EncodedMatrix& out);

}  // namespace nibble::quant
