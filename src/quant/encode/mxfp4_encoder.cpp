// mxfp4: one E8M0 scale per 32 weights. Dividing by a power of two is exact, so the codes are the nearest
// ones to the weights themselves.
#include <array>

#include "quant/e8m0.h"
#include "quant/encode/e8m0_scale.h"
#include "quant/encode/encoder.h"
#include "quant/encode/lane_rounding.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kGroup = 32;

// 2^(127 - code): code 254 needs the float32 subnormal 2^-127, which e8m0_to_float knows.
float inverse_of(std::uint8_t code) { return e8m0_to_float(static_cast<std::uint8_t>(254 - code)); }

// Sum of (|w| / scale - nearest code)^2.
float squared_error(const float* w, float inverse) {
  std::array<float, kGroup> squares;
  for (std::size_t i = 0; i < kGroup; ++i) {
    const float magnitude = abs_lane(w[i] * inverse);
    const float error = magnitude - e2m1_round_lane(magnitude);
    squares[i] = error * error;
  }
  return sum_lanes(squares);
}

// A scale twice as large never helps: its values are all values of the smaller one. A quarter of the
// scale never helps either: the largest weight, above 3 scales, would be clipped to 1.5, which costs more
// (1.5^2) than finer steps can save on the weights below 1.5 (31 / 4^2). So there are two candidates.
std::uint8_t searched_scale(const float* w, std::uint8_t plain) {
  if (plain <= 1) return plain;
  const auto lower = static_cast<std::uint8_t>(plain - 1);
  const float lower_error = 0.25F * squared_error(w, inverse_of(lower));
  return lower_error < search_bound(squared_error(w, inverse_of(plain))) ? lower : plain;
}

void encode_group(const float* w, float inverse, std::uint8_t* out) {
  std::array<std::uint8_t, kGroup> codes;
  for (std::size_t i = 0; i < kGroup; ++i) codes[i] = static_cast<std::uint8_t>(e2m1_lane(w[i] * inverse));
  pack_nibbles(codes.data(), kGroup / 2, out);
}

void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, const EncodeTarget& out) {
  const std::int64_t groups_per_row = out.view.k / kGroup;
  const bool search = out.options.scales == ScaleRule::searched;
  for (std::int64_t g = row_begin * groups_per_row; g < row_end * groups_per_row; ++g) {
    const float* w = rows + (g - row_begin * groups_per_row) * kGroup;
    std::uint8_t scale = e8m0_scale<6>(abs_max_bits(w, kGroup));
    if (search) scale = searched_scale(w, scale);
    out.scales[g] = static_cast<std::byte>(scale);
    encode_group(w, inverse_of(scale), out.codes + g * kGroup / 2);
  }
}

}  // namespace

constinit const Encoder kMxfp4Encoder = {.format = WeightFormat::mxfp4, .encode_rows = encode_rows};

}  // namespace nibble::quant
