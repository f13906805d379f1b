// Every golden model, on every tier, in every way of feeding it, against what transformers computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "core/cpu_info.h"
#include "models/registry.h"
#include "tests/models/golden_model.h"
#include "tests/models/paged_runner.h"

namespace nibble::testing {
namespace {

struct Tier {
  std::string name;
  std::string isa;
  bool bf16;
};

std::vector<Tier> available_tiers() {
  std::vector<Tier> tiers{{"scalar", "scalar", false}};
  if (cpu_info().avx2) tiers.push_back({"avx2", "avx2", false});
  if (cpu_info().avx512) tiers.push_back({"avx512_f32", "avx512_f32", false});
  if (cpu_info().avx512_bf16) tiers.push_back({"avx512_bf16", "avx512_bf16", true});
  return tiers;
}

struct Case {
  GoldenModel model;
  Tier tier;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const GoldenModel& model : golden_models()) {
    if (!is_runnable(model)) continue;
    for (const Tier& tier : available_tiers()) list.push_back({model, tier});
  }
  return list;
}

void PrintTo(const Case& c, std::ostream* out) { *out << c.model.name << " on " << c.tier.name; }

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model.name + "_" + info.param.tier.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

kernels::Device& device_of(const Tier& tier) {
  static std::map<std::string, std::unique_ptr<kernels::Device>> devices;
  auto& device = devices[tier.isa];
  if (!device) device = kernels::make_device({.num_threads = 2, .isa = tier.isa}).value();
  return *device;
}

double max_diff(std::span<const float> actual, std::span<const float> expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    const double diff = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    worst = std::isnan(diff) ? HUGE_VAL : std::max(worst, diff);
  }
  return worst;
}

// |diff|_2 / |expected|_2 of each row.
void append_errors(std::span<const float> actual, std::span<const float> expected, std::int64_t width,
                   std::vector<double>& errors) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t begin = 0; begin < actual.size(); begin += static_cast<std::size_t>(width)) {
    double diff = 0;
    double norm = 0;
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(width); ++i) {
      const double d = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
      diff += d * d;
      norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    }
    errors.push_back(std::isnan(diff) ? HUGE_VAL : std::sqrt(diff / norm));
  }
}

std::int32_t argmax(std::span<const float> row) {
  return static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// The ways of feeding the two sequences; all must give the same logits.
struct Feeding {
  std::string name;
  std::vector<Step> steps;
  bool both = false;  // runs sequence 1 too
  // The automatic choice adds nothing where it must take one form throughout; the scalar tier is slow.
  bool try_automatic = false;
};

std::vector<Step> whole(std::int32_t t) { return {{{0, 0, t}, {1, 0, t}}}; }

std::vector<Step> in_chunks(std::int32_t t, std::int32_t chunk) {
  std::vector<Step> steps;
  for (std::int32_t begin = 0; begin < t; begin += chunk)
    steps.push_back({{0, begin, std::min(chunk, t - begin)}});
  return steps;
}

std::vector<Step> decoded_from(std::int32_t t, std::int32_t first) {
  std::vector<Step> steps{{{0, 0, first}}};
  for (std::int32_t p = first; p < t; ++p) steps.push_back({{0, p, 1}});
  return steps;
}

// Sequence 1 in chunks of 7 beside sequence 0, which decodes from token 5.
std::vector<Step> mixed(std::int32_t t) {
  std::vector<Step> steps{{{0, 0, 5}}};
  std::int32_t other = 0;
  for (std::int32_t p = 5; p < t; ++p) {
    Step step;
    if (other < t) {
      const std::int32_t count = std::min(7, t - other);
      step.push_back({1, other, count});
      other += count;
    }
    step.push_back({0, p, 1});
    steps.push_back(std::move(step));
  }
  return steps;
}

std::vector<Feeding> feedings(std::int32_t t) {
  return {{"whole, both sequences", whole(t), true, true},
          {"chunks of 7", in_chunks(t, 7)},
          {"decoded from token 5", decoded_from(t, 5)},
          {"decoding beside chunks of the other", mixed(t), true, true}};
}

const char* mode_name(MlaMode mode) {
  switch (mode) {
    case MlaMode::automatic: return "auto";
    case MlaMode::naive: return "naive";
    case MlaMode::absorb: return "absorb";
  }
  return "";
}

class GoldenTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    reference_ = read_reference(GetParam().model);
    auto model = models::load_model({.dir = GetParam().model.dir}, device());
    ASSERT_TRUE(model.ok()) << model.error().message;
    model_ = std::move(model).value();
  }

  static kernels::Device& device() { return device_of(GetParam().tier); }
  [[nodiscard]] std::int32_t num_tokens() const { return static_cast<std::int32_t>(reference_.num_tokens); }

  void check_logits(const PagedRunner& runner, bool both) const {
    const std::size_t num_rows = both ? 2 : 1;
    const Tolerances& tolerances = reference_.tolerances;
    std::vector<double> errors;
    for (std::size_t row = 0; row < num_rows; ++row) {
      const std::vector<float>& actual = runner.logits(static_cast<std::int32_t>(row));
      if (!GetParam().tier.bf16) {
        EXPECT_LE(max_diff(actual, reference_.logits[row]), tolerances.logits) << "row " << row;
      }
      append_errors(actual, reference_.logits[row], reference_.vocab_size, errors);
    }
    std::sort(errors.begin(), errors.end());
    const auto far = std::count_if(errors.begin(), errors.end(), [](double e) { return e > 0.1; });
    EXPECT_LE(errors[errors.size() / 2], tolerances.bf16_median);
    EXPECT_LE(static_cast<double>(far) / static_cast<double>(errors.size()), tolerances.bf16_share);
  }

  GoldenReference reference_;
  std::unique_ptr<models::Model> model_;
};

TEST_P(GoldenTest, LogitsInEveryWayOfFeeding) {
  for (const MlaMode mode : {MlaMode::naive, MlaMode::absorb, MlaMode::automatic}) {
    for (const Feeding& feeding : feedings(num_tokens())) {
      if (mode == MlaMode::automatic && !feeding.try_automatic) continue;
      SCOPED_TRACE(feeding.name + ", " + mode_name(mode));
      PagedRunner runner(*model_, device(), reference_.input_ids, {.mla_mode = mode});
      for (const Step& step : feeding.steps) runner.run(step);
      check_logits(runner, feeding.both);
    }
  }
}

TEST_P(GoldenTest, IntermediateValues) {
  if (GetParam().tier.bf16) GTEST_SKIP() << "float32 tiers only";
  for (const MlaMode mode : {MlaMode::naive, MlaMode::absorb}) {
    SCOPED_TRACE(mode_name(mode));
    PagedRunner runner(*model_, device(), reference_.input_ids, {.mla_mode = mode});
    Trace trace;
    runner.run({{0, 0, num_tokens()}}, &trace);
    const std::int32_t num_layers = model_->info().num_layers;
    const std::size_t size = trace.at("hidden_states", -1).f32.size();
    const auto expect_close = [&](const std::string& name, std::int32_t layer, const std::vector<float>& all,
                                  std::int32_t index) {
      const std::span<const float> expected =
          std::span(all).subspan(static_cast<std::size_t>(index) * size, size);
      EXPECT_LE(max_diff(trace.at(name, layer).f32, expected), reference_.tolerances.hidden)
          << name << " of layer " << layer;
    };
    ASSERT_EQ(reference_.hidden_states.size(), size * static_cast<std::size_t>(num_layers + 1));
    for (std::int32_t layer = -1; layer < num_layers; ++layer) {
      expect_close("hidden_states", layer, reference_.hidden_states, layer + 1);
      if (layer >= 0) expect_close("attn_out", layer, reference_.attn_out, layer);
    }
  }
}

TEST_P(GoldenTest, RoutingIsExact) {
  if (GetParam().tier.bf16) GTEST_SKIP() << "float32 tiers only";
  PagedRunner runner(*model_, device(), reference_.input_ids, {});
  Trace trace;
  runner.run({{0, 0, num_tokens()}}, &trace);
  std::size_t at = 0;
  for (const std::int32_t layer : reference_.moe_layer_ids) {
    const Trace::Entry& ids = trace.at("topk_ids", layer);
    const Trace::Entry& weights = trace.at("topk_weights", layer);
    ASSERT_LE(at + ids.i32.size(), reference_.router_topk.size());
    for (std::size_t i = 0; i < ids.i32.size(); ++i, ++at) {
      ASSERT_EQ(ids.i32[i], reference_.router_topk[at]) << "layer " << layer << ", choice " << i;
      EXPECT_NEAR(weights.f32[i], reference_.router_weights[at],
                  1e-4 * std::abs(reference_.router_weights[at]) + 1e-6)
          << "layer " << layer << ", choice " << i;
    }
  }
  EXPECT_EQ(at, reference_.router_topk.size());
}

TEST_P(GoldenTest, GreedyContinuation) {
  if (GetParam().tier.bf16) GTEST_SKIP() << "float32 tiers only";
  for (const MlaMode mode : {MlaMode::automatic, MlaMode::naive}) {
    SCOPED_TRACE(mode_name(mode));
    PagedRunner runner(*model_, device(), reference_.input_ids, {.mla_mode = mode});
    runner.run({{0, 0, num_tokens()}});
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(reference_.greedy_ids.size()); ++i) {
      const std::span<const float> logits(runner.logits(0));
      ids.push_back(argmax(logits.last(static_cast<std::size_t>(reference_.vocab_size))));
      runner.append(0, ids.back());
      runner.run({{0, num_tokens() + i, 1}});
    }
    EXPECT_EQ(ids, reference_.greedy_ids);
  }
}

TEST_P(GoldenTest, Bf16CacheStaysWithinBf16Tolerance) {
  auto model = models::load_model({.dir = GetParam().model.dir, .cache_dtype = DType::bf16}, device());
  ASSERT_TRUE(model.ok()) << model.error().message;
  PagedRunner runner(**model, device(), reference_.input_ids, {});
  for (const Step& step : mixed(num_tokens())) runner.run(step);
  std::vector<double> errors;
  for (std::size_t row = 0; row < 2; ++row) {
    append_errors(runner.logits(static_cast<std::int32_t>(row)), reference_.logits[row],
                  reference_.vocab_size, errors);
  }
  std::sort(errors.begin(), errors.end());
  EXPECT_LE(errors[errors.size() / 2], reference_.tolerances.bf16_median);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(cases()), case_name);

// The logits of both sequences under a scheme.
std::vector<std::vector<float>> logits_under(const GoldenModel& golden, const Tier& tier,
                                             const std::string& quantization, MlaMode mode) {
  const GoldenReference reference = read_reference(golden);
  kernels::Device& device = device_of(tier);
  auto model = models::load_model({.dir = golden.dir, .quant = {.quantization = quantization}}, device);
  if (!model.ok()) throw std::runtime_error(model.error().message);
  PagedRunner runner(**model, device, reference.input_ids, {.mla_mode = mode});
  for (const Step& step : whole(static_cast<std::int32_t>(reference.num_tokens))) runner.run(step);
  return {runner.logits(0), runner.logits(1)};
}

struct QuantizedActivations {
  const char* model;
  const char* logits;
  const char* scheme;
  MlaMode mode;
};
constexpr QuantizedActivations kQuantizedActivations[] = {
    {"v3-tiny-fp8", "logits_w8a8", "fp8_w8a8", MlaMode::naive},
    {"v3-tiny-fp8", "logits_w8a8_absorb", "fp8_w8a8", MlaMode::absorb},
    {"v3-tiny-ct-int8", "logits_a8", "int8_w8a8", MlaMode::naive},
};

// An activation that rounds the other way moves its position by several per cent, so a right engine agrees
// to float32 precision at most positions and not at all at a few (the goldens' READMEs).
TEST(GoldenModels, QuantizedActivations) {
  int num_checked = 0;
  for (const GoldenModel& golden : golden_models()) {
    for (const QuantizedActivations& c : kQuantizedActivations) {
      if (golden.name != c.model) continue;
      const std::vector<std::vector<float>> expected = read_logits(golden, c.logits);
      ASSERT_EQ(expected.size(), 2U) << c.logits;
      for (const Tier& tier : available_tiers()) {
        SCOPED_TRACE(golden.name + ", " + c.logits + " on " + tier.name);
        const auto actual = logits_under(golden, tier, c.scheme, c.mode);
        std::vector<double> errors;
        for (std::size_t row = 0; row < 2; ++row) {
          append_errors(actual[row], expected[row], read_reference(golden).vocab_size, errors);
        }
        std::sort(errors.begin(), errors.end());
        if (tier.bf16) {
          EXPECT_LE(errors[errors.size() / 2], 0.2);
          continue;
        }
        EXPECT_LE(errors[errors.size() / 2], 1e-5);
        const auto far = std::count_if(errors.begin(), errors.end(), [](double e) { return e > 1e-3; });
        EXPECT_LE(static_cast<double>(far) / static_cast<double>(errors.size()), 0.15);
        ++num_checked;
      }
    }
  }
  EXPECT_GT(num_checked, 0);
}

// Every stored format decoded to float32 while loading gives the reference's logits: the path that quantises
// to another format reads its source exactly.
TEST(GoldenModels, DecodedWhileLoading) {
  const Tier tier = available_tiers().back().bf16 ? available_tiers().front() : available_tiers().back();
  for (const GoldenModel& golden : golden_models()) {
    if (!is_runnable(golden)) continue;
    SCOPED_TRACE(golden.name);
    const GoldenReference reference = read_reference(golden);
    const auto actual = logits_under(golden, tier, "f32", MlaMode::automatic);
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_LE(max_diff(actual[row], reference.logits[row]), reference.tolerances.logits);
    }
  }
}

// Quantising while loading moves the logits by no more than a format of so many bits may, and by something.
TEST(GoldenModels, QuantizedWhileLoading) {
  const Tier tier = available_tiers().back().bf16 ? available_tiers().front() : available_tiers().back();
  struct Bound {
    const char* scheme;
    double median;
  };
  for (const GoldenModel& golden : golden_models()) {
    if (golden.name != "v2lite-tiny") continue;
    const GoldenReference reference = read_reference(golden);
    for (const Bound& b : {Bound{"fp8", 0.15}, Bound{"int8", 0.08}, Bound{"int4", 0.7}, Bound{"mxfp4", 0.8},
                           Bound{"nvfp4", 0.7}}) {
      SCOPED_TRACE(b.scheme);
      const auto actual = logits_under(golden, tier, b.scheme, MlaMode::automatic);
      std::vector<double> errors;
      append_errors(actual[0], reference.logits[0], reference.vocab_size, errors);
      std::sort(errors.begin(), errors.end());
      EXPECT_LE(errors[errors.size() / 2], b.median);
      EXPECT_GT(errors[errors.size() / 2], 1e-4);
    }
  }
}

TEST(GoldenModels, ThereAreSome) {
  const std::vector<GoldenModel> models = golden_models();
  EXPECT_GE(std::count_if(models.begin(), models.end(), is_runnable), 5);
}

// Other architectures and formats are refused before weights are read, with the exit code for it.
TEST(GoldenModels, OthersAreUnsupported) {
  for (const GoldenModel& golden : golden_models()) {
    if (is_runnable(golden)) continue;
    SCOPED_TRACE(golden.name);
    const auto model = models::load_model({.dir = golden.dir}, device_of({"scalar", "scalar", false}));
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.error().code, ErrorCode::unsupported) << model.error().message;
    EXPECT_NE(model.error().message.find("support"), std::string::npos) << model.error().message;
  }
}

}  // namespace
}  // namespace nibble::testing
