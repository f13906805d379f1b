// Tile decoders of the AVX-512 tiers: one 64-byte step of a format to vectors of 16 rows, exactly.
#pragma once

#include <bit>

#include "kernels/cpu/avx512/vec.h"
#include "kernels/cpu/generic/decoder.h"
#include "kernels/cpu/layout.h"

namespace nibble::kernels::cpu::avx512 {

inline __m512i load_step(const std::byte* p) { return _mm512_loadu_si512(p); }

// E4M3 in the high byte of each word, as half precision times 2^-8: the sign moves with an arithmetic
// shift, its copy at bit 14 is cleared, and the exponent is then read with bias 15 instead of 7.
inline __m512i e4m3_words_to_f16(__m512i words) {
  return _mm512_and_si512(_mm512_srai_epi16(words, 1), _mm512_set1_epi16(static_cast<short>(0xBF80)));
}

struct DecodeF32 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 1;
  static void decode_step(const std::byte* p, V (&w)[1]) {
    w[0] = V::load(reinterpret_cast<const float*>(p));
  }
};

struct DecodeF16 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 2;
  static void decode_step(const std::byte* p, V (&w)[2]) {
    for (int i = 0; i < 2; ++i) {
      w[i].r = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i)));
    }
  }
};

struct DecodeBf16 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 2;
  static void decode_step(const std::byte* p, V (&w)[2]) {
    const __m512i pairs = load_step(p);
    w[0].r = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    w[1].r = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
  }
};

// Codes come out as 2^-8 of their value; packed scales are 2^8 too large (layout.h).
struct DecodeFp8 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 4;
  static constexpr std::int64_t kScaleK = generic::kAnyGroup;
  static void decode_step(const std::byte* p, V (&w)[4]) {
    const __m512i words = load_step(p);
    const __m512i even = e4m3_words_to_f16(_mm512_slli_epi16(words, 8));  // k0 | k2
    const __m512i odd = e4m3_words_to_f16(words);                         // k1 | k3
    w[0].r = _mm512_cvtph_ps(_mm512_castsi512_si256(even));
    w[1].r = _mm512_cvtph_ps(_mm512_castsi512_si256(odd));
    w[2].r = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(even, 1));
    w[3].r = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(odd, 1));
  }
  static V load_scale(const std::byte* p) { return V::load(reinterpret_cast<const float*>(p)); }
};

// Eight four-bit codes per dword, looked up in `values`: a permute uses the low four bits of each lane as
// index, so a shift alone selects the code.
inline void decode_nibbles(const std::byte* p, __m512 values, V (&w)[8]) {
  const __m512i codes = load_step(p);
  for (int i = 0; i < 4; ++i) {
    w[2 * i].r = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, static_cast<unsigned>(4 * i)), values);
    w[2 * i + 1].r =
        _mm512_permutexvar_ps(_mm512_srli_epi32(codes, static_cast<unsigned>(16 + 4 * i)), values);
  }
}

inline void decode_fp4_step(const std::byte* p, V (&w)[8]) {
  const __m512 values = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F, -0.5F, -1.0F,
                                       -1.5F, -2.0F, -3.0F, -4.0F, -6.0F);
  decode_nibbles(p, values, w);
}

struct DecodeMxfp4 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 8;
  static constexpr std::int64_t kScaleK = 32;
  static void decode_step(const std::byte* p, V (&w)[8]) { decode_fp4_step(p, w); }
  // 2^(b - 127); b = 0 is the subnormal 2^-127, which the shift alone would lose.
  static V load_scale(const std::byte* p) {
    const __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_slli_epi32(b, 23), _mm512_set1_epi32(0x00400000)))};
  }
};

struct DecodeNvfp4 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 8;
  static constexpr std::int64_t kScaleK = 16;
  static constexpr bool kHasGlobals = true;
  static void decode_step(const std::byte* p, V (&w)[8]) { decode_fp4_step(p, w); }
  static V load_scale(const std::byte* p) {
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i f16 = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(words, 8), 1),
                                         _mm256_set1_epi16(static_cast<short>(0xBF80)));
    return {_mm512_mul_ps(_mm512_cvtph_ps(f16), _mm512_set1_ps(256.0F))};
  }
};

// Integer scales are float32; zeros are signed bytes after them.
struct DecodeIntScales : generic::DecoderBase {
  static constexpr std::int64_t kScaleK = generic::kAnyGroup;
  static V load_scale(const std::byte* p) { return V::load(reinterpret_cast<const float*>(p)); }
  static V load_zero(const std::byte* p) {
    const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 64));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(zeros))};
  }
};

struct DecodeInt8 : DecodeIntScales {
  static constexpr std::int64_t kStepK = 4;
  static void decode_step(const std::byte* p, V (&w)[4]) {
    const __m512i codes = load_step(p);
    w[0].r = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 24), 24));
    w[1].r = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 16), 24));
    w[2].r = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 8), 24));
    w[3].r = _mm512_cvtepi32_ps(_mm512_srai_epi32(codes, 24));
  }
};

struct DecodeInt4 : DecodeIntScales {
  static constexpr std::int64_t kStepK = 8;
  static void decode_step(const std::byte* p, V (&w)[8]) {
    const __m512 values = _mm512_setr_ps(-8.0F, -7.0F, -6.0F, -5.0F, -4.0F, -3.0F, -2.0F, -1.0F, 0.0F, 1.0F,
                                         2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F);
    decode_nibbles(p, values, w);
  }
};

using DecodeInt8Zeros = generic::WithZeros<DecodeInt8>;
using DecodeInt8ActOrder = generic::WithActOrder<DecodeInt8>;
using DecodeInt4Zeros = generic::WithZeros<DecodeInt4>;
using DecodeInt4ActOrder = generic::WithActOrder<DecodeInt4>;

}  // namespace nibble::kernels::cpu::avx512
