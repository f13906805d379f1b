// How floating-point formats are spelt: plain, FP8, NVFP4, MXFP4.
#include <fmt/format.h>

#include "core/quote.h"
#include "formats/matrix_search.h"

namespace nibble::formats {
namespace {

using quant::WeightFormat;

// Codes two to a byte along k; `group` weights share a scale.
Status check_packed(const Search& search, const TensorInfo& weight, std::int64_t group) {
  const quant::MatrixView& m = search.source.matrix;
  if (m.k % group != 0) {
    return search.error(weight,
                        fmt::format("{} inputs are not a multiple of the {} that share a scale", m.k, group));
  }
  return check_shape(search, weight, {m.n, m.k / 2}, fmt::format("{} x {} weights, two to a byte", m.n, m.k));
}

Status fill_nvfp4_scales(Search& search, const TensorInfo& weight) {
  constexpr std::int64_t kGroup = 16;
  const quant::MatrixView& m = search.source.matrix;
  NIB_TRY_STATUS(check_packed(search, weight, kGroup));
  NIB_TRY(const TensorInfo* scale, require(search, {".weight_scale"}, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, {DType::f8_e4m3}));
  if (scale->shape.size() == 1) {
    return search.unsupported_error(*scale, "one-dimensional (swizzled) NVFP4 scales are not supported");
  }
  NIB_TRY_STATUS(check_shape(search, *scale, {m.n, m.k / kGroup}, "one scale per 16 weights of a row"));
  use_scales(search, *scale, scale->dtype);
  return {};
}

Status fill_mxfp4_scales(Search& search, const TensorInfo& weight,
                         std::initializer_list<std::string_view> suffixes,
                         std::initializer_list<DType> dtypes) {
  constexpr std::int64_t kGroup = 32;
  const quant::MatrixView& m = search.source.matrix;
  NIB_TRY_STATUS(check_packed(search, weight, kGroup));
  NIB_TRY(const TensorInfo* scale, require(search, suffixes, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, dtypes));
  NIB_TRY_STATUS(check_shape(search, *scale, {m.n, m.k / kGroup}, "one scale per 32 weights of a row"));
  use_scales(search, *scale, DType::f8_e8m0);
  return {};
}

// Fused experts hold MXFP4 codes as bytes or as I8, and their scales' bytes under either name.
bool is_fused_mxfp4(const Search& search, const TensorInfo& weight) {
  if (weight.stored_in.empty() || search.find(".weight_scale_2") != nullptr) return false;
  return weight.shape.size() == 2 && 2 * weight.shape[1] == search.source.matrix.k;
}

Status fill_fused_mxfp4(Search& search, const TensorInfo& weight) {
  search.source.matrix.format = WeightFormat::mxfp4;
  return fill_mxfp4_scales(search, weight, {".weight_scale", ".weight_scale_inv"},
                           {DType::f8_e8m0, DType::u8});
}

}  // namespace

// A BF16 weight beside leftover scales means that somebody converted half of the checkpoint.
Status fill_plain(Search& search, const TensorInfo& weight) {
  const quant::MatrixView& m = search.source.matrix;
  for (const std::string_view suffix : {".weight_scale_inv", ".weight_scale", ".weight_scale_2", ".scale"}) {
    if (const TensorInfo* scale = search.find(suffix)) {
      return search.error(*scale, fmt::format("is a scale for {}, whose dtype {} has no scales",
                                              quote(weight.name), dtype_name(weight.dtype)));
    }
  }
  return check_shape(search, weight, {m.n, m.k}, "out, in");
}

Status fill_fp8(Search& search, const TensorInfo& weight) {
  const quant::MatrixView& m = search.source.matrix;
  NIB_TRY_STATUS(check_shape(search, weight, {m.n, m.k}, "out, in"));
  NIB_TRY_STATUS(fill_grid_scales(search, weight));
  take_input_scales(search);
  return {};
}

// NVIDIA ModelOpt: the global scale multiplies.
Status fill_bytes(Search& search, const TensorInfo& weight) {
  const TensorInfo* scale = search.find(".weight_scale");
  const bool e4m3 = scale != nullptr && scale->dtype == DType::f8_e4m3;
  if (!e4m3 && is_fused_mxfp4(search, weight)) return fill_fused_mxfp4(search, weight);
  NIB_TRY_STATUS(fill_nvfp4_scales(search, weight));
  NIB_TRY(const TensorInfo* global, require(search, {".weight_scale_2"}, weight));
  NIB_TRY(search.source.matrix.global_scale, read_positive(search, *global));
  search.source.tensors.push_back(global);
  if (const TensorInfo* input = search.find(".input_scale")) {
    NIB_TRY([[maybe_unused]] const float unused, read_positive(search, *input));
  }
  take_input_scales(search);
  return {};
}

// DeepSeek-V4's MXFP4 is typed I8 like INT8: two codes to a byte tell it apart.
Status fill_i8(Search& search, const TensorInfo& weight) {
  quant::MatrixView& m = search.source.matrix;
  if (search.find(".scale") != nullptr) {
    return fill_mxfp4_scales(search, weight, {".scale"}, {DType::f8_e8m0});
  }
  if (is_fused_mxfp4(search, weight)) return fill_fused_mxfp4(search, weight);
  m.format = WeightFormat::int8;
  NIB_TRY_STATUS(check_shape(search, weight, {m.n, m.k}, "out, in"));
  if (const TensorInfo* zero = search.find(".weight_zero_point")) {
    return search.unsupported_error(*zero, "INT8 weights with zero points are not supported");
  }
  NIB_TRY_STATUS(fill_grid_scales(search, weight));
  take_input_scales(search);
  return {};
}

// compressed-tensors: "nvfp4-pack-quantized" has a global scale that divides, "mxfp4-pack-quantized"
// E8M0 bytes typed U8.
Status fill_bytes_packed(Search& search, const TensorInfo& weight) {
  const TensorInfo* global = search.find(".weight_global_scale");
  if (global == nullptr) {
    return fill_mxfp4_scales(search, weight, {".weight_scale"}, {DType::u8, DType::f8_e8m0});
  }
  search.source.matrix.format = WeightFormat::nvfp4;
  NIB_TRY_STATUS(fill_nvfp4_scales(search, weight));
  NIB_TRY(const float divisor, read_positive(search, *global));
  search.source.matrix.global_scale = 1.0F / divisor;
  search.source.tensors.push_back(global);
  take_input_scales(search);
  return {};
}

}  // namespace nibble::formats
