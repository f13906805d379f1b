// How integer formats of GPTQ, AWQ and compressed-tensors are spelt. Groups and zero points are what
// config.json says; the shapes must agree with it.
#include <fmt/format.h>

#include <cstring>

#include "core/quote.h"
#include "formats/matrix_search.h"
#include "quant/int_layouts.h"

namespace nibble::formats {
namespace {

using quant::MatrixLayout;
using quant::WeightFormat;

constexpr std::initializer_list<DType> kScaleTypes = {DType::f16, DType::bf16, DType::f32};

void use_scheme(quant::MatrixView& m, const IntegerScheme& scheme) {
  m.format = scheme.bits == 4 ? WeightFormat::int4 : WeightFormat::int8;
  const std::int64_t group_k = scheme.group_size < 0 ? m.k : scheme.group_size;
  m.grouping = {.group_k = group_k == quant::format_row(m.format).group_k ? 0 : group_k,
                .zero_points = !scheme.symmetric,
                .act_order = scheme.act_order};
}

Error no_scheme(const Search& search, const TensorInfo& weight) {
  return search.error(weight, fmt::format("is an integer weight, but config.json claims quantization_config: "
                                          "{}; expected both to agree",
                                          search.checkpoint.config().quantization.description));
}

Status take_g_idx(Search& search, const TensorInfo& weight, std::string_view suffix) {
  quant::MatrixView& m = search.source.matrix;
  const TensorInfo* g_idx = search.find(suffix);
  if (g_idx == nullptr) {
    if (!m.grouping.act_order) return {};
    return search.error(weight,
                        fmt::format("channels are reordered (act-order) according to config.json, but "
                                    "there is no {}",
                                    quote(search.name(suffix))));
  }
  NIB_TRY_STATUS(check_dtype(search, *g_idx, {DType::i32}));
  NIB_TRY_STATUS(check_shape(search, *g_idx, {m.k}, "the group of each input"));
  m.g_idx = g_idx->data.data();
  search.source.tensors.push_back(g_idx);
  return {};
}

// n or k must fill whole 32-bit words.
Status check_words(const Search& search, const TensorInfo& tensor, std::string_view what, std::int64_t size,
                   std::int64_t fields) {
  if (size % fields == 0) return {};
  return search.error(tensor, fmt::format("{} {} do not fill words of {}", size, what, fields));
}

Status take_scales(Search& search, const TensorInfo& weight, std::string_view suffix, bool by_row) {
  const quant::MatrixView& m = search.source.matrix;
  NIB_TRY(const TensorInfo* scale, require(search, {suffix}, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, kScaleTypes));
  const std::string why = fmt::format("groups of {} among {} inputs, {} outputs", m.group_k(), m.k, m.n);
  NIB_TRY_STATUS(by_row ? check_shape(search, *scale, {m.n, m.num_groups()}, why)
                        : check_shape(search, *scale, {m.num_groups(), m.n}, why));
  use_scales(search, *scale, scale->dtype);
  return {};
}

// compressed-tensors stores the shape that its words pad.
Status check_weight_shape(Search& search) {
  const quant::MatrixView& m = search.source.matrix;
  const TensorInfo* shape = search.find(".weight_shape");
  if (shape == nullptr) return {};
  NIB_TRY_STATUS(check_dtype(search, *shape, {DType::i64, DType::i32}));
  NIB_TRY_STATUS(check_shape(search, *shape, {2}, "out, in"));
  search.source.tensors.push_back(shape);
  std::int64_t stored[2] = {};
  for (std::int64_t i = 0; i < 2; ++i) {
    const std::size_t bytes = shape->dtype == DType::i64 ? 8 : 4;
    std::memcpy(&stored[i], shape->data.data() + static_cast<std::size_t>(i) * bytes, bytes);
  }
  if (stored[0] == m.n && stored[1] == m.k) return {};
  return search.error(*shape,
                      fmt::format("says [{}, {}]; expected [{}, {}]", stored[0], stored[1], m.n, m.k));
}

// The claimed scheme whose words have this number for k inputs.
const IntegerScheme* scheme_of(const Search& search, std::int64_t words) {
  for (const IntegerScheme& scheme : search.checkpoint.config().quantization.integers) {
    if (ceil_div(search.source.matrix.k * scheme.bits, 32) == words) return &scheme;
  }
  return nullptr;
}

}  // namespace

Status fill_qweight(Search& search, const TensorInfo& weight) {
  quant::MatrixView& m = search.source.matrix;
  const QuantizationConfig& claim = search.checkpoint.config().quantization;
  if (claim.integers.empty() || claim.layout == MatrixLayout::rows) return no_scheme(search, weight);
  use_scheme(m, claim.integers.front());
  m.layout = claim.layout;
  const std::int64_t fields = 32 / quant::format_row(m.format).bits;
  NIB_TRY_STATUS(check_words(search, weight, "outputs", m.n, fields));
  NIB_TRY_STATUS(check_words(search, weight, "inputs", m.k, fields));
  NIB_TRY_STATUS(
      m.layout == MatrixLayout::awq
          ? check_shape(search, weight, {m.k, m.n / fields}, "AWQ: in, out / 8")
          : check_shape(search, weight, {m.k / fields, m.n}, fmt::format("GPTQ: in / {}, out", fields)));
  NIB_TRY_STATUS(take_scales(search, weight, ".scales", false));
  const TensorInfo* zeros = search.find(".qzeros");
  if (zeros == nullptr && m.grouping.zero_points) {
    NIB_TRY(zeros, require(search, {".qzeros"}, weight));
  }
  if (zeros != nullptr) {
    NIB_TRY_STATUS(check_dtype(search, *zeros, {DType::i32}));
    NIB_TRY_STATUS(check_shape(search, *zeros, {m.num_groups(), m.n / fields}, "groups, packed outputs"));
    m.zeros = zeros->data.data();
    search.source.tensors.push_back(zeros);
  }
  return take_g_idx(search, weight, ".g_idx");
}

Status fill_ct_packed(Search& search, const TensorInfo& weight) {
  quant::MatrixView& m = search.source.matrix;
  const IntegerScheme* scheme = weight.shape.size() == 2 ? scheme_of(search, weight.shape[1]) : nullptr;
  if (scheme == nullptr) return no_scheme(search, weight);
  use_scheme(m, *scheme);
  m.layout = MatrixLayout::ct_packed;
  const std::int64_t fields = 32 / scheme->bits;
  if (m.k % quant::format_row(m.format).codes_per_byte_group != 0) {
    return search.error(weight, fmt::format("{} inputs; expected an even number", m.k));
  }
  NIB_TRY_STATUS(check_shape(search, weight, {m.n, ceil_div(m.k, fields)}, "out, words of in"));
  NIB_TRY_STATUS(check_weight_shape(search));
  NIB_TRY_STATUS(take_scales(search, weight, ".weight_scale", true));
  if (m.grouping.zero_points) {
    NIB_TRY(const TensorInfo* zeros, require(search, {".weight_zero_point"}, weight));
    NIB_TRY_STATUS(check_dtype(search, *zeros, {DType::i32}));
    NIB_TRY_STATUS(
        check_shape(search, *zeros, {ceil_div(m.n, fields), m.num_groups()}, "packed outputs, groups"));
    m.zeros = zeros->data.data();
    search.source.tensors.push_back(zeros);
  }
  take_input_scales(search);
  return take_g_idx(search, weight, ".weight_g_idx");
}

}  // namespace nibble::formats
