// Packing of the AVX-512 tiers: a step is one register.
#include "kernels/cpu/avx512/pack.h"

#include <immintrin.h>

#include "kernels/cpu/generic/pack.h"

namespace nibble::kernels::cpu::avx512 {
namespace {

struct PackedStep {
  __m512i r;

  static constexpr int kSteps = 16;

  // 16 x 16 words: pairs of rows, then fours of rows within 128-bit lanes, then the lanes themselves.
  static void transpose(const std::byte* rows, std::int64_t stride, PackedStep (&out)[kSteps]) {
    __m512i fours[16];  // [4 g + i]: lane j holds word 4 j + i of rows 4 g .. 4 g + 3
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const std::byte* row = rows + 4 * g * stride;
      const __m512i r0 = _mm512_loadu_si512(row);
      const __m512i r1 = _mm512_loadu_si512(row + stride);
      const __m512i r2 = _mm512_loadu_si512(row + 2 * stride);
      const __m512i r3 = _mm512_loadu_si512(row + 3 * stride);
      const __m512i lo01 = _mm512_unpacklo_epi32(r0, r1);
      const __m512i hi01 = _mm512_unpackhi_epi32(r0, r1);
      const __m512i lo23 = _mm512_unpacklo_epi32(r2, r3);
      const __m512i hi23 = _mm512_unpackhi_epi32(r2, r3);
      fours[4 * g] = _mm512_unpacklo_epi64(lo01, lo23);
      fours[4 * g + 1] = _mm512_unpackhi_epi64(lo01, lo23);
      fours[4 * g + 2] = _mm512_unpacklo_epi64(hi01, hi23);
      fours[4 * g + 3] = _mm512_unpackhi_epi64(hi01, hi23);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i even01 = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x88);  // lanes 0 and 2 of each
      const __m512i odd01 = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xDD);
      const __m512i even23 = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x88);
      const __m512i odd23 = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xDD);
      out[i].r = _mm512_shuffle_i32x4(even01, even23, 0x88);
      out[4 + i].r = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
      out[8 + i].r = _mm512_shuffle_i32x4(even01, even23, 0xDD);
      out[12 + i].r = _mm512_shuffle_i32x4(odd01, odd23, 0xDD);
    }
  }

  static void store(PackedStep p, std::byte* to) { _mm512_storeu_si512(to, p.r); }

  static PackedStep keep(PackedStep p) { return p; }

  static PackedStep split_words(PackedStep p) {
    const __m256i lo = _mm512_cvtepi32_epi16(p.r);
    const __m256i hi = _mm512_cvtepi32_epi16(_mm512_srli_epi32(p.r, 16));
    return {_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1)};
  }

  static PackedStep split_nibbles(PackedStep p) {
    const __m512i mask = _mm512_set1_epi8(0x0F);
    const __m512i lo = gather_nibbles(_mm512_and_si512(p.r, mask));
    const __m512i hi = gather_nibbles(_mm512_and_si512(_mm512_srli_epi32(p.r, 4), mask));
    return {_mm512_or_si512(lo, _mm512_slli_epi32(hi, 16))};
  }

  static PackedStep split_bytes(PackedStep p) {
    // Byte j of a lane's four rows side by side, then dword j of every lane.
    const __m512i bytes = _mm512_set4_epi32(0x0F0B0703, 0x0E0A0602, 0x0D090501, 0x0C080400);
    const __m512i dwords = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return {_mm512_permutexvar_epi32(dwords, _mm512_shuffle_epi8(p.r, bytes))};
  }

 private:
  // The low nibbles of each word's four bytes, side by side in its low half.
  static __m512i gather_nibbles(__m512i bytes) {
    const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x1001));  // b0 + 16 b1
    return _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x01000001));                // p0 + 256 p1
  }
};

}  // namespace

std::int64_t pack_panel(StepShuffle shuffle, const PanelSource& source, std::byte* panel) {
  return generic::pack_panel<PackedStep>(shuffle, source, panel);
}

}  // namespace nibble::kernels::cpu::avx512
