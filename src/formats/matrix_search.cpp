#include "formats/matrix_search.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/quote.h"
#include "formats/fused_experts.h"

namespace nibble::formats {

namespace {

std::string file_of(const Search& search, const TensorInfo& tensor) {
  return printable(search.checkpoint.files()[tensor.file_idx].native(), 1024);
}

}  // namespace

std::string Search::name(std::string_view suffix) const { return fmt::format("{}{}", prefix, suffix); }

const TensorInfo* Search::find(std::string_view suffix) const { return checkpoint.find(name(suffix)); }

Error Search::error(const TensorInfo& tensor, std::string_view text) const {
  return bad_input(fmt::format("{}: tensor {}: {}", file_of(*this, tensor), tensor_label(tensor), text));
}

Error Search::unsupported_error(const TensorInfo& tensor, std::string_view text) const {
  return unsupported(fmt::format(
      "{}: tensor {}: {}; supported formats: bf16, f16, f32, FP8 (blocks, channels, tensors), INT8, NVFP4 "
      "(ModelOpt, compressed-tensors), MXFP4 (DeepSeek-V4, compressed-tensors), GPTQ, AWQ, "
      "compressed-tensors pack-quantized",
      file_of(*this, tensor), tensor_label(tensor), text));
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Status check_shape(const Search& search, const TensorInfo& tensor,
                   std::initializer_list<std::int64_t> expected, std::string_view why) {
  if (std::equal(tensor.shape.begin(), tensor.shape.end(), expected.begin(), expected.end())) return {};
  return search.error(tensor, fmt::format("shape {}; expected {} ({})", shape_text(tensor.shape),
                                          shape_text(std::span(expected.begin(), expected.size())), why));
}

Status check_dtype(const Search& search, const TensorInfo& tensor, std::initializer_list<DType> expected) {
  std::vector<std::string_view> names;
  for (const DType dtype : expected) {
    if (tensor.dtype == dtype) return {};
    names.push_back(dtype_name(dtype));
  }
  return search.error(
      tensor, fmt::format("dtype {}; expected {}", dtype_name(tensor.dtype), fmt::join(names, " or ")));
}

Result<const TensorInfo*> require(const Search& search, std::initializer_list<std::string_view> suffixes,
                                  const TensorInfo& weight) {
  std::vector<std::string> tried;
  for (const std::string_view suffix : suffixes) {
    if (const TensorInfo* tensor = search.find(suffix)) return tensor;
    tried.push_back(quote(weight.stored_in.empty()
                              ? search.name(suffix)
                              : fmt::format("{}{}", fused_stem(weight.stored_in), suffix.substr(1))));
  }
  return search.error(weight, fmt::format("dtype {} needs scales, but there is no {}",
                                          dtype_name(weight.dtype), fmt::join(tried, " or ")));
}

Result<float> read_positive(const Search& search, const TensorInfo& tensor) {
  NIB_TRY_STATUS(check_dtype(search, tensor, {DType::f32}));
  const bool scalar = tensor.shape.empty() || (tensor.shape.size() == 1 && tensor.shape[0] == 1);
  if (!scalar) {
    return search.error(tensor, fmt::format("shape {}; expected [] or [1]", shape_text(tensor.shape)));
  }
  float value = 0.0F;
  std::memcpy(&value, tensor.data.data(), sizeof(value));
  if (!std::isfinite(value) || value <= 0.0F) {
    return search.error(tensor, fmt::format("value {}; expected a positive finite number", value));
  }
  return value;
}

void use_scales(Search& search, const TensorInfo& scale, DType as) {
  search.source.matrix.scales = scale.data.data();
  search.source.matrix.scale_dtype = as;
  search.source.tensors.push_back(&scale);
}

void take_input_scales(Search& search) {
  for (const std::string_view suffix : {".input_scale", ".input_global_scale", ".input_zero_point"}) {
    if (const TensorInfo* input = search.find(suffix)) search.source.tensors.push_back(input);
  }
}

Status fill_grid_scales(Search& search, const TensorInfo& weight) {
  constexpr std::int64_t kBlock = 128;
  quant::MatrixView& m = search.source.matrix;
  NIB_TRY(const TensorInfo* scale, require(search, {".weight_scale_inv", ".scale", ".weight_scale"}, weight));
  const bool any_grid = scale->name.ends_with(".weight_scale");
  if (any_grid) {
    NIB_TRY_STATUS(check_dtype(search, *scale, {DType::f32, DType::bf16, DType::f16, DType::f8_e8m0}));
  } else {
    NIB_TRY_STATUS(check_dtype(search, *scale, {DType::f32, DType::bf16, DType::f8_e8m0}));
  }
  struct Grid {
    std::vector<std::int64_t> shape;
    std::int64_t group_n;
    std::int64_t group_k;
  };
  const Grid grids[] = {
      {{ceil_div(m.n, kBlock), ceil_div(m.k, kBlock)}, kBlock, kBlock},
      {{}, m.n, m.k},
      {{1}, m.n, m.k},
      {{1, 1}, m.n, m.k},
      {{m.n, 1}, 1, m.k},
      {{m.n}, 1, m.k},
      {{m.n, ceil_div(m.k, kBlock)}, 1, kBlock},
  };
  for (const Grid& grid : std::span(grids).first(any_grid ? std::size(grids) : 1)) {
    if (grid.shape != scale->shape) continue;
    m.group_n = grid.group_n;
    // One spelling of "the format's own", so that equal matrices compare equal.
    m.grouping.group_k = grid.group_k == quant::format_row(m.format).group_k ? 0 : grid.group_k;
    use_scales(search, *scale, scale->dtype);
    return {};
  }
  const std::string others = any_grid ? fmt::format(", [{}, 1] (rows), [{}, {}] (rows and 128 inputs) or []",
                                                    m.n, m.n, ceil_div(m.k, kBlock))
                                      : "";
  return search.error(*scale,
                      fmt::format("shape {}; expected {} (one scale per 128 x 128 block of [{}, {}]){}",
                                  shape_text(scale->shape), shape_text(grids[0].shape), m.n, m.k, others));
}

}  // namespace nibble::formats
