// Element-wise row functions, written once over a vector type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::generic {

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln(2) / 2, a polynomial of degree 6 for e^r (Cephes
// expf), then 2^n. Inputs are clamped to [-87, 88], where float32 stays normal; NaN comes out as NaN.
template <class V>
inline V exp(V x) {
  const V clamped = V::min(V::set1(88.0F), V::max(V::set1(-87.0F), x));
  const V n = V::round(V::mul(clamped, V::set1(1.44269504088896341F)));
  V r = V::fma(n, V::set1(-0.693359375F), clamped);
  r = V::fma(n, V::set1(2.12194440e-4F), r);
  V p = V::set1(1.9875691500e-4F);
  p = V::fma(p, r, V::set1(1.3981999507e-3F));
  p = V::fma(p, r, V::set1(8.3334519073e-3F));
  p = V::fma(p, r, V::set1(4.1665795894e-2F));
  p = V::fma(p, r, V::set1(1.6666665459e-1F));
  p = V::fma(p, r, V::set1(5.0000001201e-1F));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set1(1.0F));
  // min and max return their second operand for NaN, so a NaN input has passed both clamps.
  return V::scale2(p, n);
}

template <class S>
float exp_sum(float* x, std::int64_t n, float max) {
  using V = typename S::V;
  const V m = V::set1(max);
  V total = V::zero();
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V e = exp(V::sub(V::load(x + i), m));
    V::store(x + i, e);
    total = V::add(total, e);
  }
  float sum = V::sum(total);
  if (i < n) {
    V::store_first(x + i, exp(V::sub(V::load_first(x + i, n - i), m)), n - i);
    for (; i < n; ++i) sum += x[i];
  }
  return sum;
}

template <class V>
inline V silu_mul(V gate, V up) {
  const V one = V::set1(1.0F);
  return V::mul(V::div(gate, V::add(one, exp(V::sub(V::zero(), gate)))), up);
}

template <class S>
void silu_mul(const float* gate, const float* up, float* y, std::int64_t n) {
  using V = typename S::V;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(y + i, silu_mul(V::load(gate + i), V::load(up + i)));
  if (i < n)
    V::store_first(y + i, silu_mul(V::load_first(gate + i, n - i), V::load_first(up + i, n - i)), n - i);
}

template <class S>
void rms_norm(const float* x, const float* weight, float eps, float* y, std::int64_t d) {
  using V = typename S::V;
  V squares = V::zero();
  std::int64_t i = 0;
  for (; i + 16 <= d; i += 16) {
    const V v = V::load(x + i);
    squares = V::fma(v, v, squares);
  }
  if (i < d) {
    const V v = V::load_first(x + i, d - i);
    squares = V::fma(v, v, squares);
  }
  const V scale = V::set1(1.0F / std::sqrt(V::sum(squares) / static_cast<float>(d) + eps));
  for (i = 0; i + 16 <= d; i += 16)
    V::store(y + i, V::mul(V::mul(V::load(x + i), scale), V::load(weight + i)));
  if (i < d) {
    V::store_first(
        y + i, V::mul(V::mul(V::load_first(x + i, d - i), scale), V::load_first(weight + i, d - i)), d - i);
  }
}

// out[i] = value of the FP8 code codes[i] * scale.
template <class S>
void decode_fp8(const std::uint8_t* codes, std::int64_t n, float scale, bool e5m2, float* out) {
  using V = typename S::V;
  const V factor = V::set1(scale);
  for (std::int64_t i = 0; i < n; i += 16) {
    std::uint8_t padded[16] = {};
    const std::int64_t left = n - i;
    if (left < 16) std::memcpy(padded, codes + i, static_cast<std::size_t>(left));
    const std::uint8_t* from = left < 16 ? padded : codes + i;
    const V value = V::mul(e5m2 ? V::load_e5m2(from) : V::load_e4m3(from), factor);
    if (left < 16) {
      V::store_first(out + i, value, left);
    } else {
      V::store(out + i, value);
    }
  }
}

}  // namespace nibble::kernels::cpu::generic
