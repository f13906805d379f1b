// What finding a matrix's tensors is written in: names under one prefix, checks, errors that name the
// tensor. Private to the spellings (matrix_source.cpp, spellings_*.cpp).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "formats/checkpoint.h"

namespace nibble::formats {

// One matrix being put together.
struct Search {
  const Checkpoint& checkpoint;
  std::string_view prefix;
  MatrixSource source;

  [[nodiscard]] std::string name(std::string_view suffix) const;
  [[nodiscard]] const TensorInfo* find(std::string_view suffix) const;
  [[nodiscard]] Error error(const TensorInfo& tensor, std::string_view text) const;
  [[nodiscard]] Error unsupported_error(const TensorInfo& tensor, std::string_view text) const;
};

// Fills search.source from the code tensor `weight` and the tensors beside it.
using FillMatrix = Status (*)(Search& search, const TensorInfo& weight);

// How a format is spelt: the tensor that holds the codes, its dtype, and what must lie beside it. fill
// may settle another format where a dtype has several uses.
struct Spelling {
  std::string_view suffix;
  DType dtype;
  quant::WeightFormat format;
  FillMatrix fill;
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b);
std::string shape_text(std::span<const std::int64_t> shape);

Status check_shape(const Search& search, const TensorInfo& tensor,
                   std::initializer_list<std::int64_t> expected, std::string_view why);
Status check_dtype(const Search& search, const TensorInfo& tensor, std::initializer_list<DType> expected);

// The first of `suffixes` that exists; an error that lists them all if none does.
Result<const TensorInfo*> require(const Search& search, std::initializer_list<std::string_view> suffixes,
                                  const TensorInfo& weight);

// A positive finite F32 of shape [] or [1].
Result<float> read_positive(const Search& search, const TensorInfo& tensor);

// Takes `scale` as the matrix's scales, of type `as`.
void use_scales(Search& search, const TensorInfo& scale, DType as);

// Tensors that belong to schemes that quantise activations: consumed where they are, not used.
void take_input_scales(Search& search);

// Scales of an 8-bit matrix [n, k] under the first of these names that exists: `.weight_scale_inv` and
// `.scale` have one per 128 x 128 block; `.weight_scale` also one per tensor, per row, or per row and 128 k,
// judged by its shape.
Status fill_grid_scales(Search& search, const TensorInfo& weight);

Status fill_plain(Search& search, const TensorInfo& weight);
Status fill_fp8(Search& search, const TensorInfo& weight);
Status fill_bytes(Search& search, const TensorInfo& weight);         // NVFP4, or fused experts' MXFP4
Status fill_bytes_packed(Search& search, const TensorInfo& weight);  // compressed-tensors FP4
Status fill_i8(Search& search, const TensorInfo& weight);            // INT8, or DeepSeek-V4's MXFP4
Status fill_qweight(Search& search, const TensorInfo& weight);       // GPTQ, AWQ
Status fill_ct_packed(Search& search, const TensorInfo& weight);     // compressed-tensors integers

}  // namespace nibble::formats
