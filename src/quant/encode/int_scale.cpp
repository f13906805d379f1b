#include "quant/encode/int_scale.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quant/encode/encoder.h"
#include "quant/encode/scale_rounding.h"

namespace nibble::quant {
namespace {

// Parts of the plain scale that a search tries: 1.08 (7 instead of 7.5 for the largest weight of int4)
// down to 0.5, which clips what lies beyond half of the range.
constexpr int kFirstPercent = 108;
constexpr int kLastPercent = 50;
constexpr int kPercentStep = 2;

struct Range {
  float low = 0.0F;   // min(w, 0)
  float high = 0.0F;  // max(w, 0)
};

Range range_of(const float* w, std::int64_t count) {
  Range range;
  for (std::int64_t i = 0; i < count; ++i) {
    range.low = w[i] < range.low ? w[i] : range.low;
    range.high = w[i] > range.high ? w[i] : range.high;
  }
  return range;
}

// `part` of the range mapped onto the codes.
IntScale scale_of(const Range& range, float part, const IntScaleRule& rule) {
  if (!rule.zero_points) {
    const float divisor = rule.bits == 4 ? 7.5F : 127.0F;
    return {.scale = round_scale(std::max(range.high, -range.low) * part / divisor, rule.scale_dtype)};
  }
  const int num_steps = (1 << rule.bits) - 1;
  const float width = std::min(range.high - range.low, std::numeric_limits<float>::max());
  IntScale s{.scale = round_scale(width * part / static_cast<float>(num_steps), rule.scale_dtype)};
  const float zero = std::nearbyint(std::min(-range.low * part / s.scale, static_cast<float>(num_steps)));
  s.zero = static_cast<int>(zero) + rule.min_code();
  return s;
}

// Sum of (w / scale - (code - zero))^2.
float squared_error(const float* w, std::int64_t count, const IntScale& s, const IntScaleRule& rule) {
  const float inverse = 1.0F / s.scale;
  const auto low = static_cast<float>(rule.min_code() - s.zero);
  const auto high = static_cast<float>(rule.max_code() - s.zero);
  const auto square = [=](float weight) {
    const float x = weight * inverse;
    const float code = (clamp_lane(x, low, high) + kIntegerMagic) - kIntegerMagic;
    return (x - code) * (x - code);
  };
  std::array<float, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    std::array<float, kLanes> squares;
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      squares[lane] = square(w[i + static_cast<std::int64_t>(lane)]);
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += squares[lane];
  }
  for (; i < count; ++i) sums[0] += square(w[i]);
  return sum_lanes(sums);
}

}  // namespace

IntScale choose_int_scale(const float* w, std::int64_t count, const IntScaleRule& rule) {
  const Range range = range_of(w, count);
  if (range.low == 0.0F && range.high == 0.0F) return {};
  const IntScale plain = scale_of(range, 1.0F, rule);
  if (rule.scales == ScaleRule::plain) return plain;
  IntScale best = plain;
  float least = search_bound(squared_error(w, count, plain, rule));
  for (int percent = kFirstPercent; percent >= kLastPercent; percent -= kPercentStep) {
    const IntScale candidate = scale_of(range, static_cast<float>(percent) / 100.0F, rule);
    const float ratio = candidate.scale / plain.scale;
    const float error = squared_error(w, count, candidate, rule) * ratio * ratio;
    if (error >= least) continue;
    least = error;
    best = candidate;
  }
  return best;
}

}  // namespace nibble::quant
