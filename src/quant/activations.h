// Quantisation of activations: the rule of each ActivationFormat, as quantise then dequantise.
#pragma once

#include <cstdint>

#include "quant/scheme.h"

namespace nibble::quant {

// y[i] = dequantise(quantise(x[i])) for one token's inputs [0, k); y may be x.
//   fp8:  per 128 consecutive inputs (the last group may be shorter) s = max(max|x|, 1e-12) / 448,
//         q = E4M3 of x / s, nearest even; y = q * s (DeepSeek-V3's act_quant).
//   int8: per token s = max(max|x|, 1e-12) / 127, q = x / s to the nearest integer, ties to even,
//         within [-128, 127]; y = q * s.
// NaN and infinities stay what they are or become NaN: they are never hidden.
void quantize_dequantize(ActivationFormat format, const float* x, std::int64_t k, float* y);

}  // namespace nibble::quant
