// Packing of the AVX2 tier: a step is two registers, rows 0..7 and rows 8..15.
#include "kernels/cpu/avx2/pack.h"

#include <immintrin.h>

#include "kernels/cpu/generic/pack.h"

namespace nibble::kernels::cpu::avx2 {
namespace {

__m256i load_two(const std::byte* lo, const std::byte* hi) {
  return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(hi), reinterpret_cast<const __m128i*>(lo));
}

// The low nibbles of each word's four bytes, side by side in its low half.
__m256i gather_nibbles(__m256i bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x1001));  // b0 + 16 b1
  return _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x01000001));                // p0 + 256 p1
}

__m256i nibbles_apart(__m256i words) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  const __m256i lo = gather_nibbles(_mm256_and_si256(words, mask));
  const __m256i hi = gather_nibbles(_mm256_and_si256(_mm256_srli_epi32(words, 4), mask));
  return _mm256_or_si256(lo, _mm256_slli_epi32(hi, 16));
}

struct PackedStep {
  __m256i lo;
  __m256i hi;

  static constexpr int kSteps = 4;

  // Four words of 8 rows: rows r and r + 4 share a register, so that no shuffle crosses its halves.
  static void transpose_8(const std::byte* rows, std::int64_t stride, __m256i (&out)[kSteps]) {
    const __m256i r0 = load_two(rows, rows + 4 * stride);
    const __m256i r1 = load_two(rows + stride, rows + 5 * stride);
    const __m256i r2 = load_two(rows + 2 * stride, rows + 6 * stride);
    const __m256i r3 = load_two(rows + 3 * stride, rows + 7 * stride);
    const __m256i lo01 = _mm256_unpacklo_epi32(r0, r1);
    const __m256i hi01 = _mm256_unpackhi_epi32(r0, r1);
    const __m256i lo23 = _mm256_unpacklo_epi32(r2, r3);
    const __m256i hi23 = _mm256_unpackhi_epi32(r2, r3);
    out[0] = _mm256_unpacklo_epi64(lo01, lo23);
    out[1] = _mm256_unpackhi_epi64(lo01, lo23);
    out[2] = _mm256_unpacklo_epi64(hi01, hi23);
    out[3] = _mm256_unpackhi_epi64(hi01, hi23);
  }

  static void transpose(const std::byte* rows, std::int64_t stride, PackedStep (&out)[kSteps]) {
    __m256i lo[kSteps];
    __m256i hi[kSteps];
    transpose_8(rows, stride, lo);
    transpose_8(rows + 8 * stride, stride, hi);
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) out[i] = {lo[i], hi[i]};
  }

  static void store(PackedStep p, std::byte* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), p.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), p.hi);
  }

  static PackedStep keep(PackedStep p) { return p; }

  static PackedStep split_words(PackedStep p) {
    const __m256i mask = _mm256_set1_epi32(0xFFFF);
    // packus works within 128-bit lanes: rows 0-3, 8-11, 4-7, 12-15.
    const __m256i lo = _mm256_packus_epi32(_mm256_and_si256(p.lo, mask), _mm256_and_si256(p.hi, mask));
    const __m256i hi = _mm256_packus_epi32(_mm256_srli_epi32(p.lo, 16), _mm256_srli_epi32(p.hi, 16));
    return {_mm256_permute4x64_epi64(lo, 0xD8), _mm256_permute4x64_epi64(hi, 0xD8)};
  }

  static PackedStep split_nibbles(PackedStep p) { return {nibbles_apart(p.lo), nibbles_apart(p.hi)}; }

  static PackedStep split_bytes(PackedStep p) {
    // Byte j of a 128-bit lane's four rows side by side, then the lanes' dwords j together.
    const __m256i bytes = _mm256_setr_epi32(0x0C080400, 0x0D090501, 0x0E0A0602, 0x0F0B0703, 0x0C080400,
                                            0x0D090501, 0x0E0A0602, 0x0F0B0703);
    const __m256i dwords = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i lo = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(p.lo, bytes), dwords);
    const __m256i hi = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(p.hi, bytes), dwords);
    const __m256i first = _mm256_unpacklo_epi64(lo, hi);   // bytes 0 and 2 of all rows
    const __m256i second = _mm256_unpackhi_epi64(lo, hi);  // bytes 1 and 3
    return {_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31)};
  }
};

}  // namespace

std::int64_t pack_panel(StepShuffle shuffle, const PanelSource& source, std::byte* panel) {
  return generic::pack_panel<PackedStep>(shuffle, source, panel);
}

}  // namespace nibble::kernels::cpu::avx2
