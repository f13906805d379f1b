// Integer checkpoints of the golden set, decoded bit by bit, and the mistakes that such a comparison must
// catch.
#include <gtest/gtest.h>

#include <algorithm>

#include "quant/float16.h"
#include "quant/int_layouts.h"
#include "quant/int_packing.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::SafetensorsReader;

struct GoldenCase {
  const char* directory;
  MatrixLayout layout;
  WeightFormat format;
  Grouping grouping;
};

const GoldenCase kCases[] = {
    {"v3-tiny-gptq", MatrixLayout::gptq, WeightFormat::int4, {.group_k = 64}},
    {"v3-tiny-gptq-asym-actorder",
     MatrixLayout::gptq,
     WeightFormat::int4,
     {.group_k = 64, .zero_points = true, .act_order = true}},
    {"v3-tiny-awq", MatrixLayout::awq, WeightFormat::int4, {.group_k = 64, .zero_points = true}},
    {"v3-tiny-ct-w4a16", MatrixLayout::ct_packed, WeightFormat::int4, {.group_k = 32}},
    {"v3-tiny-ct-int8", MatrixLayout::rows, WeightFormat::int8, {}},
};

// One golden matrix: the file it points into, what it should decode to.
struct GoldenMatrix {
  SafetensorsReader model;
  std::string base;  // "model...gate_proj"
  std::vector<float> expected;
  MatrixView view;
};

const std::byte* bytes_of(const SafetensorsReader& model, const std::string& name) {
  return model.contains(name) ? model.at(name).bytes.data() : nullptr;
}

void point_into_file(const GoldenCase& c, GoldenMatrix& m) {
  const auto bytes = [&](const char* suffix) { return bytes_of(m.model, m.base + suffix); };
  m.view.format = c.format;
  m.view.layout = c.layout;
  m.view.grouping = c.grouping;
  if (c.layout == MatrixLayout::gptq || c.layout == MatrixLayout::awq) {
    m.view.codes = bytes(".qweight");
    m.view.zeros = bytes(".qzeros");
    m.view.g_idx = bytes(".g_idx");
    m.view.scales = bytes(".scales");
    m.view.scale_dtype = DType::f16;
    return;
  }
  m.view.codes = bytes(c.layout == MatrixLayout::rows ? ".weight" : ".weight_packed");
  m.view.scales = bytes(".weight_scale");
  m.view.scale_dtype = DType::bf16;
  if (c.grouping.group_k == 0) m.view.grouping.group_k = m.view.k;  // one scale per channel
}

std::vector<GoldenMatrix> golden_matrices(const GoldenCase& c) {
  std::vector<GoldenMatrix> matrices;
  for (const auto& root : ::nibble::testing::golden_roots()) {
    if (!std::filesystem::exists(root / c.directory / "golden.safetensors")) continue;
    const SafetensorsReader golden(root / c.directory / "golden.safetensors");
    for (const auto& [name, tensor] : golden.tensors()) {
      constexpr std::string_view kPrefix = "dequantised.";
      constexpr std::string_view kSuffix = ".weight";
      if (!name.starts_with(kPrefix)) continue;
      GoldenMatrix m{.model = SafetensorsReader(root / c.directory / "model.safetensors"),
                     .base = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()),
                     .expected = tensor.values<float>(),
                     .view = {}};
      m.view.n = tensor.shape.at(0);
      m.view.k = tensor.shape.at(1);
      matrices.push_back(std::move(m));
      point_into_file(c, matrices.back());
    }
  }
  return matrices;
}

std::vector<float> decode(const MatrixView& m) {
  RowBuffer buffer;
  std::vector<float> weights(static_cast<std::size_t>(m.n * m.k));
  dequantize_rows(canonical_rows(m, 0, m.n, buffer), 0, m.n, weights.data());
  return weights;
}

class IntLayoutsGolden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(IntLayoutsGolden, BitByBit) {
  const std::vector<GoldenMatrix> matrices = golden_matrices(GetParam());
  if (matrices.empty()) GTEST_SKIP() << GetParam().directory << " is not there";
  for (const GoldenMatrix& m : matrices) {
    EXPECT_TRUE(::nibble::testing::same_floats(decode(m.view), m.expected)) << m.base;
    EXPECT_TRUE(check_integer_layout(m.view, m.base).ok());
    RowBuffer buffer;
    std::vector<float> rows(static_cast<std::size_t>(5 * m.view.k));
    dequantize_rows(canonical_rows(m.view, 3, 8, buffer), 0, 5, rows.data());
    const auto part = std::span(m.expected).subspan(static_cast<std::size_t>(3 * m.view.k), rows.size());
    EXPECT_TRUE(::nibble::testing::same_floats(rows, part)) << m.base;
  }
}

// Writing what was read gives the bytes of the file.
TEST_P(IntLayoutsGolden, PackedAgain) {
  const GoldenCase& c = GetParam();
  if (c.layout == MatrixLayout::rows) GTEST_SKIP() << "canonical already";
  for (const GoldenMatrix& m : golden_matrices(c)) {
    RowBuffer buffer;
    MatrixView canonical = canonical_rows(m.view, 0, m.view.n, buffer);
    std::vector<std::uint16_t> scales;  // canonical_rows makes them float32
    for (const float s : buffer.scales) {
      scales.push_back(m.view.scale_dtype == DType::f16 ? float_to_f16(s) : float_to_bf16(s));
    }
    canonical.scales = reinterpret_cast<const std::byte*>(scales.data());
    canonical.scale_dtype = m.view.scale_dtype;
    const PackedBytes bytes = packed_bytes(canonical, c.layout).value();
    const auto expect_same = [&](void (*pack)(const MatrixView&, MatrixLayout, std::byte*), std::int64_t size,
                                 const std::byte* stored) {
      if (size == 0 || stored == nullptr) return;
      std::vector<std::byte> packed(static_cast<std::size_t>(size));
      pack(canonical, c.layout, packed.data());
      EXPECT_TRUE(std::ranges::equal(packed, std::span(stored, packed.size()))) << m.base;
    };
    expect_same(pack_codes, bytes.codes, m.view.codes);
    expect_same(pack_zeros, bytes.zeros, m.view.zeros);
    expect_same(pack_scales, bytes.scales, m.view.scales);
    expect_same(pack_g_idx, bytes.g_idx, m.view.g_idx);
  }
}

// Each classic mistake changes weights.
TEST_P(IntLayoutsGolden, MistakesAreSeen) {
  const GoldenCase& c = GetParam();
  for (const GoldenMatrix& m : golden_matrices(c)) {
    if (c.layout == MatrixLayout::gptq) {
      MatrixView wrong = m.view;
      wrong.grouping.zero_points = true;
      wrong.layout = MatrixLayout::gptq_v2;  // the +1 of version 1 forgotten
      EXPECT_NE(decode(wrong), m.expected);
    }
    if (c.grouping.act_order) {
      MatrixView wrong = m.view;
      wrong.grouping.act_order = false;
      EXPECT_NE(decode(wrong), m.expected);
      EXPECT_FALSE(check_integer_layout(wrong, "w").ok());
      std::vector<std::byte> g_idx(wrong.g_idx, wrong.g_idx + wrong.k * 4);
      g_idx[40] = g_idx[40] == std::byte{0} ? std::byte{1} : std::byte{0};
      wrong = m.view;
      wrong.g_idx = g_idx.data();
      EXPECT_NE(decode(wrong), m.expected);
    }
    if (c.grouping.zero_points) {
      MatrixView wrong = m.view;
      wrong.grouping.zero_points = false;
      EXPECT_NE(decode(wrong), m.expected);
      EXPECT_FALSE(check_integer_layout(wrong, "w").ok());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Directories, IntLayoutsGolden, ::testing::ValuesIn(kCases),
                         [](const auto& param_info) {
                           std::string name = param_info.param.directory;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace nibble::quant
