// 16 float lanes in one 512-bit register, and the properties of the AVX-512 tiers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace nibble::kernels::cpu::avx512 {

struct V {
  __m512 r;

  static V zero() { return {_mm512_setzero_ps()}; }
  static V set1(float x) { return {_mm512_set1_ps(x)}; }
  static V load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static V load_first(const float* p, std::int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  static V load_bf16(const std::uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  static V load_bf16_first(const std::uint16_t* p, std::int64_t n) {
    const __m256i half = _mm256_maskz_loadu_epi16(first(n), p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  // 16 E4M3 (finite) or E5M2 codes: both are half-precision numbers after a shift, E4M3 with an exponent
  // that is 8 too small.
  static V load_e4m3(const std::uint8_t* p) {
    const __m256i words = _mm256_slli_epi16(load_bytes(p), 8);
    const __m256i f16 =
        _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<short>(0xBF80)));
    return {_mm512_mul_ps(_mm512_cvtph_ps(f16), _mm512_set1_ps(256.0F))};
  }
  static V load_e5m2(const std::uint8_t* p) { return {_mm512_cvtph_ps(_mm256_slli_epi16(load_bytes(p), 8))}; }
  static void store(float* p, V a) { _mm512_storeu_ps(p, a.r); }
  static void store_first(float* p, V a, std::int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.r); }
  static V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
  static V mul(V a, V b) { return {_mm512_mul_ps(a.r, b.r)}; }
  static V add(V a, V b) { return {_mm512_add_ps(a.r, b.r)}; }
  static V sub(V a, V b) { return {_mm512_sub_ps(a.r, b.r)}; }
  static V div(V a, V b) { return {_mm512_div_ps(a.r, b.r)}; }
  static V max(V a, V b) { return {_mm512_max_ps(a.r, b.r)}; }
  static V min(V a, V b) { return {_mm512_min_ps(a.r, b.r)}; }
  static V round(V a) { return {_mm512_roundscale_ps(a.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  // a * 2^n for integral n.
  static V scale2(V a, V n) { return {_mm512_scalef_ps(a.r, n.r)}; }
  static float sum(V a) { return _mm512_reduce_add_ps(a.r); }

  // Lane i of the result is the sum of the lanes of a[i].
  static V reduce16(const V (&a)[16]) {
    __m512 quad[4];
    for (int i = 0; i < 4; ++i) {
      const V* v = a + 4 * i;
      const __m512 s0 = _mm512_add_ps(_mm512_unpacklo_ps(v[0].r, v[1].r), _mm512_unpackhi_ps(v[0].r, v[1].r));
      const __m512 s1 = _mm512_add_ps(_mm512_unpacklo_ps(v[2].r, v[3].r), _mm512_unpackhi_ps(v[2].r, v[3].r));
      quad[i] = _mm512_add_ps(_mm512_shuffle_ps(s0, s1, 0x44), _mm512_shuffle_ps(s0, s1, 0xEE));
    }
    const __m512 t0 = _mm512_add_ps(_mm512_shuffle_f32x4(quad[0], quad[1], 0x44),
                                    _mm512_shuffle_f32x4(quad[0], quad[1], 0xEE));
    const __m512 t1 = _mm512_add_ps(_mm512_shuffle_f32x4(quad[2], quad[3], 0x44),
                                    _mm512_shuffle_f32x4(quad[2], quad[3], 0xEE));
    return {_mm512_add_ps(_mm512_shuffle_f32x4(t0, t1, 0x88), _mm512_shuffle_f32x4(t0, t1, 0xDD))};
  }

 private:
  static __m256i load_bytes(const std::uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __mmask16 first(std::int64_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
};

struct Simd {
  using V = avx512::V;
  // 2 x 12 accumulators + 2 weights + 1 broadcast of the 32 registers.
  static constexpr int kMicroPanels = 2;
  static constexpr int kMicroM = 12;
  static constexpr std::int64_t kPrefetchBytes = 2048;
  static void prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
};

}  // namespace nibble::kernels::cpu::avx512
