// From tensor names to matrices: which number format a linear layer's tensors are in, judged by the
// names and dtypes present, then compared with what config.json claims.
//
// Adding a format: one row in kSpellings and one function that fills the view from its scale tensors.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>

#include "core/quote.h"
#include "formats/checkpoint.h"

namespace nibble::formats {
namespace {

using quant::WeightFormat;

constexpr std::int64_t kFp8Block = 128;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// One matrix being put together.
struct Search {
  const Checkpoint& checkpoint;
  std::string_view prefix;
  MatrixSource source;

  [[nodiscard]] std::string name(std::string_view suffix) const {
    return fmt::format("{}{}", prefix, suffix);
  }
  [[nodiscard]] const TensorInfo* find(std::string_view suffix) const {
    return checkpoint.find(name(suffix));
  }
  [[nodiscard]] std::string file(const TensorInfo& tensor) const {
    return printable(checkpoint.files()[tensor.file_idx].native(), 1024);
  }
  [[nodiscard]] Error error(const TensorInfo& tensor, std::string_view text) const {
    return bad_input(fmt::format("{}: tensor {}: {}", file(tensor), quote(tensor.name), text));
  }
  [[nodiscard]] Error unsupported_error(const TensorInfo& tensor, std::string_view text) const {
    return unsupported(
        fmt::format("{}: tensor {}: {}; supported formats: bf16, f16, f32, fp8 (128x128 blocks), NVFP4 "
                    "(ModelOpt), MXFP4",
                    file(tensor), quote(tensor.name), text));
  }
};

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

// The first of `suffixes` that exists; an error that lists them all if none does.
Result<const TensorInfo*> require(const Search& search, std::initializer_list<std::string_view> suffixes,
                                  const TensorInfo& weight) {
  std::vector<std::string> tried;
  for (const std::string_view suffix : suffixes) {
    if (const TensorInfo* tensor = search.find(suffix)) return tensor;
    tried.push_back(quote(search.name(suffix)));
  }
  return search.error(weight, fmt::format("dtype {} needs scales, but there is no {}",
                                          dtype_name(weight.dtype), fmt::join(tried, " or ")));
}

// Codes two to a byte along k; `group` weights share a scale.
Status check_packed(const Search& search, const TensorInfo& weight, std::int64_t group) {
  const quant::MatrixView& m = search.source.matrix;
  if (m.k % group != 0) {
    return search.error(weight,
                        fmt::format("{} inputs are not a multiple of the {} that share a scale", m.k, group));
  }
  return check_shape(search, weight, {m.n, m.k / 2}, fmt::format("{} x {} weights, two to a byte", m.n, m.k));
}

void use_scales(Search& search, const TensorInfo& scale, DType as) {
  search.source.matrix.scales = scale.data.data();
  search.source.matrix.scale_dtype = as;
  search.source.tensors.push_back(&scale);
}

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
  if (const TensorInfo* other = search.find(".weight_scale")) {
    return search.unsupported_error(*other, "FP8 with one scale per tensor or channel is not supported");
  }
  NIB_TRY(const TensorInfo* scale, require(search, {".weight_scale_inv", ".scale"}, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, {DType::f32, DType::bf16, DType::f8_e8m0}));
  NIB_TRY_STATUS(check_shape(search, *scale, {ceil_div(m.n, kFp8Block), ceil_div(m.k, kFp8Block)},
                             fmt::format("one scale per 128 x 128 block of [{}, {}]", m.n, m.k)));
  use_scales(search, *scale, scale->dtype);
  return {};
}

Result<float> read_scalar(const Search& search, const TensorInfo& tensor) {
  NIB_TRY_STATUS(check_dtype(search, tensor, {DType::f32}));
  const bool scalar = tensor.shape.empty() || (tensor.shape.size() == 1 && tensor.shape[0] == 1);
  if (!scalar)
    return search.error(tensor, fmt::format("shape {}; expected [] or [1]", shape_text(tensor.shape)));
  float value = 0.0F;
  std::memcpy(&value, tensor.data.data(), sizeof(value));
  return value;
}

// NVIDIA ModelOpt. input_scale belongs to schemes that quantise activations; read, checked, not used.
Status fill_nvfp4(Search& search, const TensorInfo& weight) {
  constexpr std::int64_t kGroup = 16;
  quant::MatrixView& m = search.source.matrix;
  NIB_TRY_STATUS(check_packed(search, weight, kGroup));
  NIB_TRY(const TensorInfo* scale, require(search, {".weight_scale"}, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, {DType::f8_e4m3}));
  if (scale->shape.size() == 1) {
    return search.unsupported_error(*scale, "one-dimensional (swizzled) NVFP4 scales are not supported");
  }
  NIB_TRY_STATUS(check_shape(search, *scale, {m.n, m.k / kGroup}, "one scale per 16 weights of a row"));
  use_scales(search, *scale, scale->dtype);
  NIB_TRY(const TensorInfo* global, require(search, {".weight_scale_2"}, weight));
  NIB_TRY(m.global_scale, read_scalar(search, *global));
  if (!std::isfinite(m.global_scale) || m.global_scale <= 0.0F) {
    return search.error(*global, fmt::format("value {}; expected a positive finite number", m.global_scale));
  }
  search.source.tensors.push_back(global);
  if (const TensorInfo* input = search.find(".input_scale")) {
    NIB_TRY([[maybe_unused]] const float unused, read_scalar(search, *input));
    search.source.tensors.push_back(input);
  }
  return {};
}

Status fill_mxfp4_scales(Search& search, const TensorInfo& weight, std::string_view suffix,
                         std::initializer_list<DType> dtypes) {
  constexpr std::int64_t kGroup = 32;
  const quant::MatrixView& m = search.source.matrix;
  NIB_TRY_STATUS(check_packed(search, weight, kGroup));
  NIB_TRY(const TensorInfo* scale, require(search, {suffix}, weight));
  NIB_TRY_STATUS(check_dtype(search, *scale, dtypes));
  NIB_TRY_STATUS(check_shape(search, *scale, {m.n, m.k / kGroup}, "one scale per 32 weights of a row"));
  use_scales(search, *scale, DType::f8_e8m0);
  return {};
}

// DeepSeek-V4's spelling: I8 bytes of two codes.
Status fill_mxfp4(Search& search, const TensorInfo& weight) {
  const quant::MatrixView& m = search.source.matrix;
  if (weight.shape.size() == 2 && weight.shape[1] == m.k) {
    return search.unsupported_error(weight, "INT8 weights are not supported");
  }
  return fill_mxfp4_scales(search, weight, ".scale", {DType::f8_e8m0});
}

// compressed-tensors "mxfp4-pack-quantized": E8M0 bytes typed U8.
Status fill_mxfp4_packed(Search& search, const TensorInfo& weight) {
  if (const TensorInfo* global = search.find(".weight_global_scale")) {
    return search.unsupported_error(*global, "NVFP4 in compressed-tensors form is not supported");
  }
  return fill_mxfp4_scales(search, weight, ".weight_scale", {DType::u8, DType::f8_e8m0});
}

// How a format is spelt: the tensor that holds the codes, its dtype, and what must lie beside it.
struct Spelling {
  std::string_view suffix;
  DType dtype;
  WeightFormat format;
  Status (*fill)(Search&, const TensorInfo& weight);
};
constexpr std::array kSpellings = {
    Spelling{".weight", DType::bf16, WeightFormat::bf16, fill_plain},
    Spelling{".weight", DType::f16, WeightFormat::f16, fill_plain},
    Spelling{".weight", DType::f32, WeightFormat::f32, fill_plain},
    Spelling{".weight", DType::f8_e4m3, WeightFormat::fp8, fill_fp8},
    Spelling{".weight", DType::u8, WeightFormat::nvfp4, fill_nvfp4},
    Spelling{".weight", DType::i8, WeightFormat::mxfp4, fill_mxfp4},
    Spelling{".weight_packed", DType::u8, WeightFormat::mxfp4, fill_mxfp4_packed},
};

// Spellings of formats that exist but are not implemented.
struct KnownSpelling {
  std::string_view suffix;
  std::string_view text;
};
constexpr std::array kUnsupported = {
    KnownSpelling{".qweight", "GPTQ and AWQ weights are not supported"},
    KnownSpelling{".weight_packed", "compressed-tensors integer weights are not supported"},
    KnownSpelling{"_blocks", "MXFP4 weights in gpt-oss form are not supported"},
};

// The formats a checkpoint may hold when config.json claims a method. Plain tensors are always
// allowed: no list names all modules that stay unquantised.
struct ClaimRow {
  QuantMethod method;
  std::array<WeightFormat, 2> formats;
};
constexpr std::array kClaims = {
    ClaimRow{QuantMethod::fp8, {WeightFormat::fp8, WeightFormat::mxfp4}},  // V4 keeps experts in MXFP4
    ClaimRow{QuantMethod::modelopt_nvfp4, {WeightFormat::nvfp4, WeightFormat::nvfp4}},
    ClaimRow{QuantMethod::mxfp4, {WeightFormat::mxfp4, WeightFormat::mxfp4}},
};

bool is_plain(WeightFormat format) { return quant::format_row(format).group_k == 0; }

Status check_claim(const Search& search, const TensorInfo& weight) {
  const WeightFormat format = search.source.matrix.format;
  if (is_plain(format)) return {};
  const QuantizationConfig& claim = search.checkpoint.config().quantization;
  for (const ClaimRow& row : kClaims) {
    if (row.method == claim.method && (row.formats[0] == format || row.formats[1] == format)) return {};
  }
  return search.error(weight,
                      fmt::format("is {} judging by its tensors, but config.json claims quantization_config: "
                                  "{}; expected both to agree",
                                  quant::format_name(format), claim.description));
}

// The spelling whose code tensor exists, with that tensor.
struct Match {
  const Spelling* spelling;
  const TensorInfo* weight;
};

Error no_match(const Search& search) {
  for (const KnownSpelling& row : kUnsupported) {
    if (const TensorInfo* tensor = search.find(row.suffix))
      return search.unsupported_error(*tensor, row.text);
  }
  if (const TensorInfo* weight = search.find(".weight")) {
    return search.error(*weight,
                        fmt::format("dtype {} is not one weights are stored in; expected BF16, F16, F32, "
                                    "F8_E4M3, U8 (NVFP4) or I8 (MXFP4)",
                                    dtype_name(weight->dtype)));
  }
  return bad_input(fmt::format("{}: tensor {} is missing from all {} files (also tried {})",
                               printable(search.checkpoint.dir().native(), 1024),
                               quote(search.name(".weight")), search.checkpoint.files().size(),
                               quote(search.name(".weight_packed"))));
}

Result<Match> match_spelling(const Search& search) {
  std::optional<Match> match;
  for (const Spelling& spelling : kSpellings) {
    const TensorInfo* weight = search.find(spelling.suffix);
    if (weight == nullptr || weight->dtype != spelling.dtype) continue;
    if (match) {
      return search.error(
          *weight, fmt::format("is there beside {}; expected one of the two", quote(match->weight->name)));
    }
    match = Match{&spelling, weight};
  }
  if (!match) return no_match(search);
  return *match;
}

}  // namespace

Result<MatrixSource> find_matrix(const Checkpoint& checkpoint, std::string_view prefix, std::int64_t n,
                                 std::int64_t k) {
  Search search{checkpoint, prefix, {}};
  NIB_TRY(const Match match, match_spelling(search));
  const TensorInfo& weight = *match.weight;
  search.source.matrix = {.format = match.spelling->format, .n = n, .k = k, .codes = weight.data.data()};
  search.source.tensors.push_back(&weight);
  NIB_TRY_STATUS(match.spelling->fill(search, weight));
  NIB_TRY_STATUS(check_claim(search, weight));
  return std::move(search.source);
}

Result<std::vector<float>> read_vector(const Checkpoint& checkpoint, std::string_view name,
                                       std::span<const std::int64_t> shape) {
  const Search search{checkpoint, name, {}};
  const TensorInfo* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    return bad_input(fmt::format("{}: tensor {} is missing from all {} files",
                                 printable(checkpoint.dir().native(), 1024), quote(name),
                                 checkpoint.files().size()));
  }
  NIB_TRY_STATUS(check_dtype(search, *tensor, {DType::f32, DType::bf16, DType::f16}));
  if (!std::equal(tensor->shape.begin(), tensor->shape.end(), shape.begin(), shape.end())) {
    return search.error(*tensor,
                        fmt::format("shape {}; expected {}", shape_text(tensor->shape), shape_text(shape)));
  }
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  const WeightFormat format = tensor->dtype == DType::f32    ? WeightFormat::f32
                              : tensor->dtype == DType::bf16 ? WeightFormat::bf16
                                                             : WeightFormat::f16;
  std::vector<float> values(static_cast<std::size_t>(count));
  quant::dequantize_rows({.format = format, .n = 1, .k = count, .codes = tensor->data.data()}, 0, 1,
                         values.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    return search.error(*tensor, fmt::format("element {} is {}; expected a finite number", i, values[i]));
  }
  return values;
}

}  // namespace nibble::formats
