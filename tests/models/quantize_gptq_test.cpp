// GPTQ checkpoints: what is written is what the solver makes of the inputs that a run of the whole model
// gives its layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "models/checkpoint_shape.h"
#include "models/loader.h"
#include "nibble/quantize.h"
#include "quant/encode/encode.h"
#include "quant/gptq/gptq.h"
#include "quant/gptq/hessian.h"
#include "tests/models/decoded_matrix.h"
#include "tests/models/editable_checkpoint.h"
#include "tests/models/paged_runner.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"
#include "tests/support/random.h"
#include "tests/support/test_directory.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;
using models::Binding;
using ::testing::HasSubstr;

constexpr std::int32_t kWindow = 100;
constexpr std::int32_t kVocabulary = 160;  // of the smallest model used here

std::vector<TokenId> random_tokens(std::int32_t count) {
  Random random(11);
  std::vector<TokenId> tokens;
  for (std::int32_t i = 0; i < count; ++i) tokens.push_back(random.below(kVocabulary));
  return tokens;
}

// The inputs of every weight and group, window after window.
struct InputRecorder final : layers::InputSink {
  using Key = std::pair<const kernels::Weight*, std::int64_t>;
  struct Inputs {
    std::int64_t k = 0;
    std::vector<std::vector<float>> windows;
  };

  void record(const layers::LinearInput& input) override {
    std::vector<float> rows;
    const auto add = [&](std::int64_t row) {
      const float* values = input.x.f32() + row * input.x.stride[0];
      rows.insert(rows.end(), values, values + input.x.dim(1));
    };
    for (const std::int32_t row : input.rows) add(row);
    for (std::int64_t row = 0; input.rows.empty() && row < input.x.dim(0); ++row) add(row);
    for (const kernels::Weight* weight : input.weights) {
      Inputs& all = inputs[{weight, input.rows.empty() ? -1 : input.group}];
      all.k = input.x.dim(1);
      all.windows.push_back(rows);
    }
  }

  std::map<Key, Inputs> inputs;
};

// The whole model in memory, run over the text.
struct WholeModel {
  WholeModel(const fs::path& dir, const std::vector<TokenId>& tokens)
      : shape(models::shape_checkpoint(dir, {}).value()),
        device(kernels::make_device({.num_threads = 2}).value()) {
    EXPECT_TRUE(models::allocate_weights(*shape.specs, *device).ok());
    EXPECT_TRUE(
        models::stream_weights(shape.checkpoint, shape.bound, *device, quant::ScaleRule::plain, {}).ok());
    shape.model->build_tables(device->exec());
    std::vector<std::vector<TokenId>> windows;
    for (std::size_t begin = 0; begin < tokens.size(); begin += kWindow) {
      const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      windows.emplace_back(first, first + std::min<std::ptrdiff_t>(kWindow, tokens.end() - first));
    }
    PagedRunner runner(*shape.model, *device, windows, {.mla_mode = MlaMode::naive});
    for (std::size_t i = 0; i < windows.size(); ++i) {
      runner.run({{static_cast<std::int32_t>(i), 0, static_cast<std::int32_t>(windows[i].size())}}, nullptr,
                 &recorder);
    }
  }

  [[nodiscard]] const InputRecorder::Inputs* inputs(const Binding& binding) const {
    const models::RowBlock& block = binding.spec->blocks.front();
    const auto it = recorder.inputs.find(
        {block.weight, binding.spec->kind == models::LayerKind::experts ? block.group : -1});
    return it == recorder.inputs.end() ? nullptr : &it->second;
  }

  models::CheckpointShape shape;
  std::unique_ptr<kernels::Device> device;
  InputRecorder recorder;
};

// What the solver makes of a layer; rounded to nearest where it saw too little.
std::vector<float> solved(const Binding& source, const InputRecorder::Inputs* inputs,
                          const GptqSettings& settings, ThreadPool& threads, int& solved_count) {
  const std::int64_t k = source.spec->k;
  const std::vector<float> weights = decoded(source.matrix);
  const auto format = settings.bits == 8 ? quant::WeightFormat::int8 : quant::WeightFormat::int4;
  auto hessian = quant::HessianAccumulator::allocate(k).value();
  if (inputs != nullptr) {
    EXPECT_EQ(inputs->k, k);
    for (const std::vector<float>& rows : inputs->windows)
      hessian.add(rows.data(), static_cast<std::int64_t>(rows.size()) / k, threads);
  }
  if (hessian.num_rows() < 2 * k) {
    auto nearest = quant::EncodedMatrix::allocate(source.spec->n, k,
                                                  {.format = format,
                                                   .group_k = settings.group_size,
                                                   .scale_dtype = DType::f16,
                                                   .scales = quant::ScaleRule::searched,
                                                   .zero_points = settings.zero_points})
                       .value();
    quant::encode_rows(weights.data(), 0, source.spec->n, nearest);
    return decoded(nearest.view());
  }
  ++solved_count;
  const auto factor =
      quant::HessianFactor::compute(hessian.upper(), k, {.act_order = settings.act_order}, threads).value();
  return decoded(quant::gptq_quantize(weights.data(), source.spec->n, factor,
                                      {.format = format,
                                       .group_k = settings.group_size,
                                       .zero_points = settings.zero_points,
                                       .scales = quant::ScaleRule::searched},
                                      threads)
                     .value()
                     .view());
}

struct Case {
  const char* name;
  const char* model;
  GptqSettings settings;
};

class QuantizeGptq : public ::testing::TestWithParam<Case> {
 protected:
  const TestDirectory dir_;
};

TEST_P(QuantizeGptq, ReadBackAsSolved) {
  const Case& param = GetParam();
  QuantizeOptions request{.source = test_data("golden") / param.model,
                          .destination = dir_.path() / "out",
                          .format = "gptq",
                          .num_threads = 2,
                          .gptq = param.settings};
  request.gptq.calibration = random_tokens(930);
  request.gptq.window = kWindow;
  const auto report = quantize_checkpoint(request);
  ASSERT_TRUE(report.ok()) << report.error().message;
  const WholeModel whole(request.source, request.gptq.calibration);
  const auto written = models::shape_checkpoint(request.destination, {});
  ASSERT_TRUE(written.ok()) << written.error().message;
  ThreadPool threads(1);
  int compared = 0;
  int solved_count = 0;
  for (std::size_t i = 0; i < written->bound.bindings.size(); ++i) {
    const Binding& binding = written->bound.bindings[i];
    const Binding& source = whole.shape.bound.bindings[i];
    if (!binding.spec->is_matrix()) continue;
    ASSERT_EQ(binding.spec->name, source.spec->name);
    if (binding.spec->kind == models::LayerKind::other) {
      EXPECT_TRUE(same_floats(decoded(binding.matrix), decoded(source.matrix))) << binding.spec->name;
      continue;
    }
    ASSERT_EQ(binding.matrix.layout, quant::MatrixLayout::gptq) << binding.spec->name;
    EXPECT_TRUE(same_floats(decoded(binding.matrix),
                            solved(source, whole.inputs(source), request.gptq, threads, solved_count)))
        << binding.spec->name;
    ++compared;
  }
  EXPECT_GT(solved_count, 20);
  EXPECT_EQ(compared, report->num_quantized);
}

INSTANTIATE_TEST_SUITE_P(
    All, QuantizeGptq,
    ::testing::Values(Case{"symmetric", "v2lite-tiny", {.group_size = 32}},
                      Case{"act_order", "v2lite-tiny", {.group_size = 32, .act_order = true}},
                      Case{"zero_points_query_lora", "v2-tiny", {.group_size = 32, .zero_points = true}},
                      Case{"eight_bits_by_row", "v2lite-tiny", {.bits = 8, .group_size = -1}},
                      // Every Hessian on its own.
                      Case{"little_memory_fp8", "v3-tiny-fp8", {.group_size = 64, .max_hessian_bytes = 1}}),
    [](const auto& param) { return std::string(param.param.name); });

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class QuantizeGptqRun : public ::testing::Test {
 protected:
  [[nodiscard]] QuantizeOptions request(const std::string& name) const {
    QuantizeOptions options{.source = test_data("golden") / "v2lite-tiny",
                            .destination = dir_.path() / name,
                            .format = "gptq",
                            .max_shard_bytes = 60'000,
                            .num_threads = 2};
    options.gptq.calibration = random_tokens(500);
    options.gptq.window = 128;
    options.gptq.group_size = 32;
    return options;
  }

  void expect_refused(const QuantizeOptions& options, ErrorCode code, const char* text) const {
    const auto report = quantize_checkpoint(options);
    ASSERT_FALSE(report.ok()) << text;
    EXPECT_EQ(report.error().code, code) << report.error().message;
    EXPECT_THAT(report.error().message, HasSubstr(text));
  }

  const TestDirectory dir_;
};

// Stops all over the place, goes on, and ends with the same files.
TEST_F(QuantizeGptqRun, InterruptedAndResumed) {
  QuantizeOptions whole = request("whole");
  whole.num_threads = 1;
  ASSERT_TRUE(quantize_checkpoint(whole).ok());
  QuantizeOptions stopped = request("stopped");
  int resumed = 0;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    int calls = 0;
    std::uint64_t last = 0;
    const auto report = quantize_checkpoint(
        stopped, [&](std::string_view, std::uint64_t done, std::uint64_t total, std::string_view) {
          EXPECT_LE(done, total);
          EXPECT_GE(done, last);
          last = done;
          return ++calls < 90;
        });
    if (report.ok()) break;
    ASSERT_EQ(report.error().code, ErrorCode::interrupted) << report.error().message;
    ++resumed;
  }
  EXPECT_GT(resumed, 1);
  for (const auto& entry : fs::directory_iterator(whole.destination)) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(content(entry.path()), content(stopped.destination / name)) << name;
  }
  EXPECT_FALSE(fs::exists(stopped.destination / "quantize_state.json"));
}

TEST_F(QuantizeGptqRun, AnotherTextIsAnotherRun) {
  QuantizeOptions first = request("out");
  int calls = 0;
  ASSERT_FALSE(quantize_checkpoint(first, [&](auto, auto, auto, auto) { return ++calls < 150; }).ok());
  ASSERT_TRUE(fs::exists(first.destination / "quantize_state.json"));
  first.gptq.calibration.front() ^= 1;
  expect_refused(first, ErrorCode::bad_input, "other options");
}

TEST_F(QuantizeGptqRun, TooFewTokensAreToldAndRounded) {
  QuantizeOptions options = request("out");
  options.gptq.calibration.resize(10);
  const auto report = quantize_checkpoint(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  ASSERT_FALSE(report->notes.empty());
  EXPECT_THAT(report->notes.back(), HasSubstr("rounded to nearest"));
  std::int64_t rounded = 0;
  for (const QuantizedTensor& tensor : report->tensors) {
    if (!tensor.rounded_to_nearest) continue;
    ++rounded;
    EXPECT_LE(tensor.calibration_tokens, 10);
  }
  EXPECT_EQ(rounded, report->num_quantized);
  EXPECT_TRUE(models::shape_checkpoint(options.destination, {}).ok());
}

TEST_F(QuantizeGptqRun, WhatCannotBeDone) {
  QuantizeOptions options = request("out");
  options.gptq.calibration.clear();
  expect_refused(options, ErrorCode::bad_input, "calibration");
  options = request("out");
  options.gptq.calibration[3] = 256;
  expect_refused(options, ErrorCode::bad_input, "calibration token 3 is 256");
  options = request("out");
  options.gptq.bits = 3;
  expect_refused(options, ErrorCode::unsupported, "3 bits");
  options = request("out");
  options.gptq.group_size = 48;
  expect_refused(options, ErrorCode::bad_input, "groups of 48");
  options = request("out");
  options.gptq.damp_percent = 0;
  expect_refused(options, ErrorCode::bad_input, "damping");
  options = request("out");
  options.format = "mxfp4";
  expect_refused(options, ErrorCode::bad_input, "for --format gptq only");
  options = request("out");
  options.mlp = "int8";
  expect_refused(options, ErrorCode::unsupported, "beside layers in gptq");
  options = request("out");
  options.other = "gptq";
  expect_refused(options, ErrorCode::unsupported, "--other gptq");
}

// Kinds and modules that stay plain are skipped by a rule of the configuration.
TEST_F(QuantizeGptqRun, ExpertsAlone) {
  QuantizeOptions options = request("out");
  options.format = "auto";
  options.experts = "gptq";
  ASSERT_TRUE(quantize_checkpoint(options).ok());
  const auto config = nlohmann::json::parse(std::ifstream(options.destination / "config.json"));
  const auto& skipped = config.at("quantization_config").at("dynamic");
  EXPECT_TRUE(skipped.contains("-:.*self_attn\\..*")) << skipped;
  EXPECT_TRUE(skipped.contains("-:.*mlp\\.gate$")) << skipped;
  const auto written = models::shape_checkpoint(options.destination, {});
  ASSERT_TRUE(written.ok()) << written.error().message;
  for (const Binding& binding : written->bound.bindings) {
    if (!binding.spec->is_matrix()) continue;
    EXPECT_EQ(binding.matrix.layout == quant::MatrixLayout::gptq,
              binding.spec->kind == models::LayerKind::experts)
        << binding.spec->name;
  }
}

}  // namespace
}  // namespace nibble::testing
