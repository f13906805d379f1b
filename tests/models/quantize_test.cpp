// Checkpoints quantised to a directory: what is read back is what the encoder made, bit for bit.
#include "nibble/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "formats/checkpoint.h"
#include "models/checkpoint_shape.h"
#include "quant/encode/encode.h"
#include "tests/models/decoded_matrix.h"
#include "tests/models/editable_checkpoint.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"
#include "tests/support/test_directory.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;
using models::Binding;
using ::testing::HasSubstr;

class Quantize : public ::testing::Test {
 protected:
  [[nodiscard]] QuantizeOptions options(const std::string& model, const std::string& format) const {
    return {.source = test_data("golden") / model,
            .destination = dir_ / format,
            .format = format,
            .num_threads = 2};
  }

  const TestDirectory temporary_;
  const fs::path& dir_ = temporary_.path();
};

const Binding* find(const models::CheckpointShape& shape, const std::string& name) {
  for (const Binding& binding : shape.bound.bindings) {
    if (binding.spec->name == name) return &binding;
  }
  return nullptr;
}

// The source's values through the encoder.
std::vector<float> encoded(const models::CheckpointShape& source, const Binding& binding,
                           quant::EncodeOptions options) {
  const std::vector<float> values = decoded(binding.matrix);
  if (options.format == quant::WeightFormat::nvfp4) {
    float amax = quant::abs_max(values);
    std::string partner = binding.spec->name;
    if (const std::size_t gate = partner.find("gate_proj"); gate != std::string::npos) {
      partner.replace(gate, 9, "up_proj");
    } else if (const std::size_t up = partner.find("up_proj"); up != std::string::npos) {
      partner.replace(up, 7, "gate_proj");
    }
    amax = std::max(amax, quant::abs_max(decoded(find(source, partner)->matrix)));
    options.global_scale = quant::nvfp4_global_scale(amax);
  }
  auto matrix = quant::EncodedMatrix::allocate(binding.matrix.n, binding.matrix.k, options).value();
  quant::encode_rows(values.data(), 0, binding.matrix.n, matrix);
  return decoded(matrix.view());
}

class QuantizeFormats : public Quantize, public ::testing::WithParamInterface<const char*> {};

TEST_P(QuantizeFormats, ReadBackAsEncoded) {
  const std::string format = GetParam();
  for (const char* model : {"v2lite-tiny", "v3-tiny-fp8"}) {
    QuantizeOptions request = options(model, format);
    request.destination += model;
    const auto report = quantize_checkpoint(request);
    ASSERT_TRUE(report.ok()) << report.error().message;
    const auto source = models::shape_checkpoint(request.source, {});
    const auto written = models::shape_checkpoint(request.destination, {});
    ASSERT_TRUE(written.ok()) << written.error().message;
    int compared = 0;
    for (const Binding& binding : written->bound.bindings) {
      if (!binding.spec->is_matrix() || binding.spec->kind == models::LayerKind::other) continue;
      const Binding* original = find(*source, binding.spec->name);
      ASSERT_EQ(quant::format_name(binding.matrix.format), format) << binding.spec->name;
      const std::vector<float> want =
          original->matrix.format == binding.matrix.format
              ? decoded(original->matrix)
              : encoded(*source, *original,
                        {.format = *quant::format_from_name(format), .scales = quant::ScaleRule::searched});
      EXPECT_TRUE(same_floats(decoded(binding.matrix), want)) << binding.spec->name;
      ++compared;
    }
    EXPECT_GT(compared, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeFormats,
                         ::testing::Values("mxfp4", "nvfp4", "fp8", "int8", "int4", "bf16", "f16", "f32"),
                         [](const auto& param) { return std::string(param.param); });

TEST_F(Quantize, AnyNumberOfThreadsWritesTheSame) {
  QuantizeOptions one = options("v2lite-tiny", "nvfp4");
  one.num_threads = 1;
  QuantizeOptions three = one;
  three.num_threads = 3;
  three.destination = dir_ / "three";
  ASSERT_TRUE(quantize_checkpoint(one).ok());
  ASSERT_TRUE(quantize_checkpoint(three).ok());
  for (const char* name : {"model.safetensors", "quantization_report.json", "config.json"}) {
    std::ifstream a(one.destination / name, std::ios::binary);
    std::ifstream b(three.destination / name, std::ios::binary);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(a), {}),
              std::string(std::istreambuf_iterator<char>(b), {}))
        << name;
  }
}

// Stops before every shard in turn, and goes on.
TEST_F(Quantize, InterruptedEverywhere) {
  QuantizeOptions request = options("v2lite-tiny", "fp8");
  request.max_shard_bytes = 100'000;
  int resumed = 0;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    int calls = 0;
    const auto report = quantize_checkpoint(request, [&](std::string_view, std::uint64_t, std::uint64_t,
                                                         std::string_view) { return ++calls < 25; });
    if (report.ok()) {
      EXPECT_GT(report->resumed_shards, 1);
      EXPECT_FALSE(fs::exists(request.destination / "quantize_state.json"));
      EXPECT_TRUE(models::shape_checkpoint(request.destination, {}).ok());
      EXPECT_GT(resumed, 1);
      return;
    }
    ASSERT_EQ(report.error().code, ErrorCode::interrupted) << report.error().message;
    EXPECT_FALSE(fs::exists(request.destination / "config.json"));
    ++resumed;
  }
  FAIL() << "never came to an end";
}

TEST_F(Quantize, FormatsOfAFusedLayerMustAgree) {
  QuantizeOptions request = options("v2lite-tiny", "int8");
  request.exclude = {"*.experts.1.*"};
  const auto report = quantize_checkpoint(request);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::unsupported);
  EXPECT_THAT(report.error().message, HasSubstr("experts"));
  EXPECT_FALSE(fs::exists(request.destination));
}

}  // namespace
}  // namespace nibble::testing
