// nvfp4: one E4M3 scale per 16 weights, times the matrix's global scale. Codes are the nearest ones to
// w / (e4m3 * global), as ModelOpt computes it.
#include <algorithm>
#include <array>

#include "quant/encode/encoder.h"
#include "quant/encode/lane_rounding.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kGroup = 16;
constexpr std::uint8_t kOne = 0x38;
constexpr int kMaxCode = 0x7E;

// Codes around the plain one that are tried. Eight codes double the scale: 4 below clip the largest weight
// at 6 / 1.4, 6 above bring it to the value 4, where the codes lie closer together.
constexpr int kCodesBelow = 4;
constexpr int kCodesAbove = 6;

// A scale that would round to zero is 2^-9, the smallest: the weights below it keep some of their value.
// (ModelOpt writes 0 there and loses the block.)
std::uint8_t plain_scale(std::uint32_t amax_bits, float global) {
  if (amax_bits == 0) return kOne;
  const float quotient = std::bit_cast<float>(amax_bits) / (kE2m1Max * global);
  return std::max<std::uint8_t>(float_to_e4m3_saturated(quotient), 1);
}

// Sum of (x - value)^2 for magnitudes x in units of the plain scale; `ratio` is scale / plain scale.
float squared_error(const std::array<float, kGroup>& x, float ratio) {
  const float inverse = 1.0F / ratio;
  std::array<float, kGroup> squares;
  for (std::size_t i = 0; i < kGroup; ++i) {
    const float error = x[i] - e2m1_round_lane(x[i] * inverse) * ratio;
    squares[i] = error * error;
  }
  return sum_lanes(squares);
}

std::uint8_t searched_scale(const float* w, std::uint8_t plain, float global) {
  const float plain_value = e4m3_to_float(plain);
  std::array<float, kGroup> x;
  for (std::size_t i = 0; i < kGroup; ++i) x[i] = abs_lane(w[i] / (plain_value * global));
  float least = search_bound(squared_error(x, 1.0F));
  std::uint8_t best = plain;
  const int last = std::min(plain + kCodesAbove, kMaxCode);
  for (int code = std::max(plain - kCodesBelow, 1); code <= last; ++code) {
    const float error = squared_error(x, e4m3_to_float(static_cast<std::uint8_t>(code)) / plain_value);
    if (error >= least) continue;
    least = error;
    best = static_cast<std::uint8_t>(code);
  }
  return best;
}

void encode_group(const float* w, float scale, std::uint8_t* out) {
  std::array<std::uint8_t, kGroup> codes;
  for (std::size_t i = 0; i < kGroup; ++i) codes[i] = static_cast<std::uint8_t>(e2m1_lane(w[i] / scale));
  pack_nibbles(codes.data(), kGroup / 2, out);
}

void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, const EncodeTarget& out) {
  const std::int64_t groups_per_row = out.view.k / kGroup;
  const float global = out.view.global_scale;
  const bool search = out.options.scales == ScaleRule::searched;
  for (std::int64_t g = row_begin * groups_per_row; g < row_end * groups_per_row; ++g) {
    const float* w = rows + (g - row_begin * groups_per_row) * kGroup;
    const std::uint32_t amax_bits = abs_max_bits(w, kGroup);
    std::uint8_t scale = plain_scale(amax_bits, global);
    if (search && amax_bits != 0) scale = searched_scale(w, scale, global);
    out.scales[g] = static_cast<std::byte>(scale);
    encode_group(w, e4m3_to_float(scale) * global, out.codes + g * kGroup / 2);
  }
}

}  // namespace

constinit const Encoder kNvfp4Encoder = {.format = WeightFormat::nvfp4, .encode_rows = encode_rows};

}  // namespace nibble::quant
