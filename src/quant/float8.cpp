#include "quant/float8.h"

#include <limits>

#include "quant/minifloat.h"

namespace nibble::quant {
namespace {

using E4m3 = Minifloat<4, 3, 7>;
using E5m2 = Minifloat<5, 2, 15>;

constexpr std::uint32_t kE4m3Nan = 0x7F;
constexpr std::uint32_t kE4m3MaxCode = 0x7E;
constexpr std::uint32_t kE5m2Infinity = 0x7C;
constexpr std::uint32_t kE5m2MaxCode = 0x7B;
constexpr std::uint32_t kE5m2Nan = 0x7E;

constexpr std::array<float, 256> e4m3_values() {
  std::array<float, 256> values{};
  for (std::uint32_t code = 0; code < 256; ++code) values[code] = E4m3::decode(code);
  values[kE4m3Nan] = std::numeric_limits<float>::quiet_NaN();
  values[0x80U | kE4m3Nan] = std::numeric_limits<float>::quiet_NaN();
  return values;
}

constexpr std::array<float, 256> e5m2_values() {
  std::array<float, 256> values{};
  for (std::uint32_t code = 0; code < 256; ++code) {
    const std::uint32_t magnitude = code & 0x7FU;
    const float infinity = std::numeric_limits<float>::infinity();
    if (magnitude < kE5m2Infinity) {
      values[code] = E5m2::decode(code);
    } else if (magnitude == kE5m2Infinity) {
      values[code] = code < 0x80 ? infinity : -infinity;
    } else {
      values[code] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  return values;
}

// `overflow` is the code of everything that rounds above max_code.
template <class Format>
std::uint8_t encode(float x, std::uint32_t max_code, std::uint32_t overflow, std::uint32_t nan) noexcept {
  const std::uint32_t sign = Format::sign_of(x);
  if (is_nan(x)) return static_cast<std::uint8_t>(sign | nan);
  const std::uint32_t code = Format::encode_magnitude(x);
  return static_cast<std::uint8_t>(sign | (code <= max_code ? code : overflow));
}

}  // namespace

constinit const std::array<float, 256> kE4m3Values = e4m3_values();
constinit const std::array<float, 256> kE5m2Values = e5m2_values();

std::uint8_t float_to_e4m3(float x) noexcept { return encode<E4m3>(x, kE4m3MaxCode, kE4m3Nan, kE4m3Nan); }

std::uint8_t float_to_e4m3_saturated(float x) noexcept {
  return encode<E4m3>(x, kE4m3MaxCode, kE4m3MaxCode, kE4m3Nan);
}

std::uint8_t float_to_e5m2(float x) noexcept {
  return encode<E5m2>(x, kE5m2MaxCode, kE5m2Infinity, kE5m2Nan);
}

std::uint8_t float_to_e5m2_saturated(float x) noexcept {
  return encode<E5m2>(x, kE5m2MaxCode, kE5m2MaxCode, kE5m2Nan);
}

}  // namespace nibble::quant
