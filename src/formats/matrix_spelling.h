// How a matrix is spelt in a file: the inverse of find_matrix for the conventions nibble writes.
//
//              fp8                  modelopt            compressed_tensors
//   fp8        weight               -                   weight
//              weight_scale_inv                         weight_scale
//   nvfp4      -                    weight (U8)         weight_packed
//                                   weight_scale        weight_scale
//                                   weight_scale_2      weight_global_scale (divides)
//   mxfp4      -                    -                   weight_packed, weight_scale (U8)
//   int8       -                    -                   weight, weight_scale
//   int4       -                    -                   weight_packed, weight_scale, weight_shape
//   plain      weight in all of them
//
// gptq has int4 and int8 alone: qweight, qzeros, scales (F16) and g_idx, zeros in the first version's form.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors_writer.h"
#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::formats {

// quant_method of the config.json that goes with it.
enum class QuantMethod : std::uint8_t { none, fp8, modelopt, compressed_tensors, gptq };

// Why a canonical matrix cannot be spelt in any convention that needs no calibration ("has one FP8 scale per
// row"); empty if it can.
std::string why_unspellable(const quant::MatrixView& matrix);

// The tensors of a matrix. Looks at the view's shape and formats, not at its bytes. The method fits the
// format (see above).
std::vector<TensorHeader> matrix_tensors(std::string_view module, const quant::MatrixView& matrix,
                                         QuantMethod method);

// Calls write(index, bytes) for each of matrix_tensors. `matrix` is canonical.
using WriteTensor = std::function<Status(std::size_t index, std::span<const std::byte> bytes)>;
Status write_matrix(const quant::MatrixView& matrix, QuantMethod method, const WriteTensor& write);

// compressed-tensors stores NVFP4's global scale as its reciprocal: the value nearest to `scale` that comes
// back from there unchanged.
float reciprocal_scale(float scale) noexcept;

}  // namespace nibble::formats
