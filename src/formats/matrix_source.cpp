// From tensor names to matrices: which number format a linear layer's tensors are in, judged by the
// names and dtypes present, then compared with what config.json claims.
//
// Adding a format: one row in kSpellings and one function (spellings_*.cpp) that fills the view from the
// tensors beside the codes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>

#include "core/quote.h"
#include "formats/checkpoint.h"
#include "formats/matrix_search.h"

namespace nibble::formats {
namespace {

using quant::WeightFormat;

constexpr std::array kSpellings = {
    Spelling{".weight", DType::bf16, WeightFormat::bf16, fill_plain},
    Spelling{".weight", DType::f16, WeightFormat::f16, fill_plain},
    Spelling{".weight", DType::f32, WeightFormat::f32, fill_plain},
    Spelling{".weight", DType::f8_e4m3, WeightFormat::fp8, fill_fp8},
    Spelling{".weight", DType::u8, WeightFormat::nvfp4, fill_bytes},
    Spelling{".weight", DType::i8, WeightFormat::mxfp4, fill_i8},
    Spelling{".weight_packed", DType::u8, WeightFormat::mxfp4, fill_bytes_packed},
    Spelling{".weight_packed", DType::i32, WeightFormat::int4, fill_ct_packed},
    Spelling{".qweight", DType::i32, WeightFormat::int4, fill_qweight},
};

// Spellings of formats that exist but are not implemented.
struct KnownSpelling {
  std::string_view suffix;
  std::string_view text;
};
constexpr std::array kUnsupported = {
    KnownSpelling{"_blocks", "MXFP4 weights in gpt-oss form are not supported"},
};

bool is_plain(WeightFormat format) { return quant::format_row(format).group_k == 0; }

// Plain tensors are always allowed: no list names all modules that stay unquantised.
Status check_claim(const Search& search, const TensorInfo& weight) {
  const WeightFormat format = search.source.matrix.format;
  const QuantizationConfig& claim = search.checkpoint.config().quantization;
  if (is_plain(format)) return {};
  if (std::find(claim.formats.begin(), claim.formats.end(), format) != claim.formats.end()) return {};
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
                                    "F8_E4M3, U8 (NVFP4) or I8 (INT8, MXFP4)",
                                    dtype_name(weight->dtype)));
  }
  return bad_input(fmt::format("{}: tensor {} is missing from all {} files (also tried {} and {})",
                               printable(search.checkpoint.dir().native(), 1024),
                               quote(search.name(".weight")), search.checkpoint.files().size(),
                               quote(search.name(".weight_packed")), quote(search.name(".qweight"))));
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
