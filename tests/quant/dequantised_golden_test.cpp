// The `dequantised.*` tensors of the golden models, bit by bit.
#include <gtest/gtest.h>

#include "quant/matrix_view.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::quant {
namespace {

namespace fs = std::filesystem;
using ::nibble::testing::SafetensorsReader;

constexpr std::string_view kPrefix = "dequantised.";

// Reads the weight `base` ("...gate_proj", without ".weight") under the names of the formats we know;
// false if it is stored otherwise.
bool find_matrix(const SafetensorsReader& model, const std::string& base, MatrixView& m) {
  const auto has = [&](const char* suffix) { return model.contains(base + suffix); };
  const auto bytes = [&](const char* suffix) { return model.at(base + suffix).bytes.data(); };
  if (has(".weight_scale_inv")) {
    m = {.format = WeightFormat::fp8, .codes = bytes(".weight"), .scales = bytes(".weight_scale_inv")};
  } else if (has(".weight_scale_2")) {
    m = {.format = WeightFormat::nvfp4, .codes = bytes(".weight"), .scales = bytes(".weight_scale")};
    m.global_scale = model.at(base + ".weight_scale_2").values<float>().at(0);
  } else if (has(".weight_packed") && model.at(base + ".weight_scale").dtype == "U8") {
    m = {.format = WeightFormat::mxfp4, .codes = bytes(".weight_packed"), .scales = bytes(".weight_scale")};
  } else if (has(".scale") && model.at(base + ".weight").dtype == "I8") {
    m = {.format = WeightFormat::mxfp4, .codes = bytes(".weight"), .scales = bytes(".scale")};
  } else if (has(".scale") && model.at(base + ".weight").dtype == "F8_E4M3") {
    m = {.format = WeightFormat::fp8, .codes = bytes(".weight"), .scales = bytes(".scale")};
    m.scale_dtype = DType::f8_e8m0;
  } else {
    return false;
  }
  return true;
}

// Checks all tensors of one model directory; returns how many there were.
int check_model(const fs::path& directory) {
  const SafetensorsReader golden(directory / "golden.safetensors");
  int num_checked = 0;
  for (const auto& [name, expected] : golden.tensors()) {
    if (!name.starts_with(kPrefix) || !fs::exists(directory / "model.safetensors")) continue;
    const SafetensorsReader model(directory / "model.safetensors");
    const std::string weight = name.substr(kPrefix.size());
    MatrixView m;
    if (!find_matrix(model, weight.substr(0, weight.rfind(".weight")), m)) continue;
    m.n = expected.shape.at(0);
    m.k = expected.shape.at(1);
    std::vector<float> actual(static_cast<std::size_t>(m.n * m.k));
    dequantize_rows(m, 0, m.n, actual.data());
    EXPECT_TRUE(::nibble::testing::same_floats(actual, expected.values<float>())) << directory << " " << name;
    EXPECT_TRUE(check_finite(m, name).ok()) << directory << " " << name;
    ++num_checked;
  }
  return num_checked;
}

TEST(DequantisedGolden, EveryModelDirectory) {
  int num_checked = 0;
  for (const fs::path& root : ::nibble::testing::golden_roots()) {
    if (!fs::exists(root)) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      if (fs::exists(entry.path() / "golden.safetensors")) num_checked += check_model(entry.path());
    }
  }
  if (num_checked == 0) GTEST_SKIP() << "no quantised golden model found";
}

}  // namespace
}  // namespace nibble::quant
