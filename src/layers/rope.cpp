#include "layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "layers/sin_cos.h"

namespace nibble::layers {
namespace {

// Where YaRN's blend begins and ends, in pairs: the pair that turns `rotations` times within the
// original context. The upper end is clamped to dim - 1 although pairs only reach dim / 2 - 1: the
// published models were trained with that.
struct YarnRange {
  double low = 0;
  double high = 0;
};

YarnRange yarn_range(const RopeConfig& config, const YarnConfig& yarn) {
  const double dim = static_cast<double>(config.dim);
  const auto pair_of = [&](double rotations) {
    const double length = static_cast<double>(yarn.original_max_position_embeddings);
    return dim * std::log(length / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(config.theta));
  };
  YarnRange range{.low = std::max(std::floor(pair_of(yarn.beta_fast)), 0.0),
                  .high = std::min(std::ceil(pair_of(yarn.beta_slow)), dim - 1.0)};
  if (range.low == range.high) range.high += 0.001;  // no division by zero in the ramp
  return range;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& config) {
  std::vector<float> frequencies(static_cast<std::size_t>(config.dim / 2));
  YarnRange range;
  if (config.yarn) range = yarn_range(config, *config.yarn);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.dim);
    const float period = static_cast<float>(std::pow(config.theta, static_cast<double>(exponent)));
    const float extrapolated = 1.0F / period;
    frequencies[i] = extrapolated;
    if (!config.yarn) continue;
    const float interpolated = 1.0F / (static_cast<float>(config.yarn->factor) * period);
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(range.low)) / static_cast<float>(range.high - range.low),
        0.0F, 1.0F);
    const float keep = 1.0F - ramp;
    frequencies[i] = interpolated * (1.0F - keep) + extrapolated * keep;
  }
  return frequencies;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double rope_attention_factor(const RopeConfig& config) {
  if (!config.yarn) return 1.0;
  const YarnConfig& yarn = *config.yarn;
  if (yarn.mscale == 0.0 || yarn.mscale_all_dim == 0.0) return yarn_mscale(yarn.factor, 1.0);
  return yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim);
}

double yarn_softmax_factor(const RopeConfig& config) {
  if (!config.yarn || config.yarn->mscale_all_dim == 0.0) return 1.0;
  const double m = yarn_mscale(config.yarn->factor, config.yarn->mscale_all_dim);
  return m * m;
}

void Rope::build_tables(std::int64_t max_positions, kernels::Exec& exec) {
  const std::vector<float> frequencies = rope_frequencies(config_);
  const auto scale = static_cast<float>(rope_attention_factor(config_));
  const std::size_t bytes = static_cast<std::size_t>(max_positions) * frequencies.size() * sizeof(float);
  Buffer cos_table(bytes);
  Buffer sin_table(bytes);
  float* const cos = cos_table.as<float>();
  float* const sin = sin_table.as<float>();
  constexpr std::int64_t kRowsPerTask = 1024;
  exec.threads().parallel_for(
      (max_positions + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int /*thread*/) {
        const std::int64_t end = std::min(max_positions, (task + 1) * kRowsPerTask);
        for (std::int64_t p = task * kRowsPerTask; p < end; ++p) {
          const std::size_t row = static_cast<std::size_t>(p) * frequencies.size();
          for (std::size_t i = 0; i < frequencies.size(); ++i) {
            // The angle is rounded to float32, as in the reference; its cosine is not the
            // place to differ.
            const auto angle = static_cast<double>(static_cast<float>(p) * frequencies[i]);
            const SinCos turn = sin_cos(angle);
            cos[row + i] = static_cast<float>(turn.cos) * scale;
            sin[row + i] = static_cast<float>(turn.sin) * scale;
          }
        }
      });
  cos_ = exec.memory().place(std::move(cos_table));
  sin_ = exec.memory().place(std::move(sin_table));
  max_positions_ = max_positions;
}

void Rope::forward(Context& ctx, TensorView x, const std::int32_t* positions) const {
  NIB_CHECK(x.dim(x.rank - 1) == config_.dim, "rope of {} values got rows of {}", config_.dim,
            x.dim(x.rank - 1));
  ctx.table.rope(ctx.exec, {.x = x, .positions = positions, .cos = cos(), .sin = sin()});
}

TensorView Rope::table(const Buffer& values) const {
  return make_view(values.data(), DType::f32, {max_positions_, config_.dim / 2});
}

}  // namespace nibble::layers
