// Sine and cosine together, without branches or calls, so that a loop over angles becomes vector code.
#pragma once

#include <bit>
#include <cstdint>

namespace nibble::layers {

struct SinCos {
  double sin;
  double cos;
};

// To about 1 ulp for |x| up to 10^6, where a multiple of pi / 2 is still subtracted exactly (fdlibm's
// polynomials and split of pi / 2); beyond, the error grows to that of rounding x itself.
inline SinCos sin_cos(double x) {
  constexpr double kHalfPiHigh = 1.57079632673412561417e+00;  // 33 bits: its product with n is exact
  constexpr double kHalfPiLow = 6.07710050650619224932e-11;
  constexpr double kRound = 0x1.8p52;  // adding it leaves an integer in the low bits
  const double shifted = x * 6.36619772367581382433e-01 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kHalfPiHigh) - n * kHalfPiLow;
  const double z = r * r;
  const double sin_tail = -1.66666666666666324348e-01 +
                          z * (8.33333333332248946124e-03 +
                               z * (-1.98412698298579493134e-04 +
                                    z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 +
                                                                           z * 1.58969099521155010221e-10))));
  const double cos_tail =
      4.16666666666666019037e-02 +
      z * (-1.38888888888741095749e-03 +
           z * (2.48015872894767294178e-05 +
                z * (-2.75573143513906633035e-07 +
                     z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11))));
  const auto sin_r = std::bit_cast<std::uint64_t>(r + r * z * sin_tail);
  const auto cos_r = std::bit_cast<std::uint64_t>(1.0 - (0.5 * z - z * z * cos_tail));
  // Odd quadrants exchange the two; the quadrant's next bit is the sign.
  const auto quadrant = std::bit_cast<std::uint64_t>(shifted);
  const std::uint64_t exchange = (sin_r ^ cos_r) & (0 - (quadrant & 1));
  return {.sin = std::bit_cast<double>(sin_r ^ exchange ^ ((quadrant & 2) << 62)),
          .cos = std::bit_cast<double>(cos_r ^ exchange ^ (((quadrant + 1) & 2) << 62))};
}

}  // namespace nibble::layers
