// Tile decoders of the AVX2 tier: one 64-byte step of a format to vectors of 16 rows, exactly.
#pragma once

#include "kernels/cpu/avx2/vec.h"
#include "kernels/cpu/generic/decoder.h"
#include "kernels/cpu/layout.h"

namespace nibble::kernels::cpu::avx2 {

inline __m256i load_half(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// 16 half-precision words to 16 floats.
inline V from_f16(__m256i words) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(words)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1))};
}

// E4M3 in the high byte of each word, as half precision times 2^-8: the sign moves with an arithmetic
// shift, its copy at bit 14 is cleared, and the exponent is then read with bias 15 instead of 7.
inline __m256i e4m3_words_to_f16(__m256i words) {
  return _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<short>(0xBF80)));
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
    for (int i = 0; i < 2; ++i) w[i] = from_f16(load_half(p + 32 * i));
  }
};

struct DecodeBf16 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 2;
  static void decode_step(const std::byte* p, V (&w)[2]) {
    const __m256i lo = load_half(p);
    const __m256i hi = load_half(p + 32);
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    w[0] = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
    w[1] = {_mm256_castsi256_ps(_mm256_and_si256(lo, odd)), _mm256_castsi256_ps(_mm256_and_si256(hi, odd))};
  }
};

// Codes come out as 2^-8 of their value; packed scales are 2^8 too large (layout.h).
struct DecodeFp8 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 4;
  static constexpr std::int64_t kScaleK = generic::kAnyGroup;
  static void decode_step(const std::byte* p, V (&w)[4]) {
    for (int i = 0; i < 2; ++i) {
      const __m256i words = load_half(p + 32 * i);
      w[2 * i] = from_f16(e4m3_words_to_f16(_mm256_slli_epi16(words, 8)));
      w[2 * i + 1] = from_f16(e4m3_words_to_f16(words));
    }
  }
  static V load_scale(const std::byte* p) { return V::load(reinterpret_cast<const float*>(p)); }
};

// The value of the code in the low four bits of each lane: an 8-entry table for the magnitude (the
// permute looks at three bits only), the code's bit 3 moved to the sign.
inline __m256 e2m1_values(__m256i codes) {
  const __m256 magnitudes = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
  const __m256i sign =
      _mm256_and_si256(_mm256_slli_epi32(codes, 28), _mm256_set1_epi32(static_cast<int>(0x80000000U)));
  return _mm256_xor_ps(_mm256_permutevar8x32_ps(magnitudes, codes), _mm256_castsi256_ps(sign));
}

inline void decode_fp4_step(const std::byte* p, V (&w)[8]) {
  const __m256i lo = load_half(p);
  const __m256i hi = load_half(p + 32);
  for (int i = 0; i < 4; ++i) {
    w[2 * i] = {e2m1_values(_mm256_srli_epi32(lo, 4 * i)), e2m1_values(_mm256_srli_epi32(hi, 4 * i))};
    w[2 * i + 1] = {e2m1_values(_mm256_srli_epi32(lo, 16 + 4 * i)),
                    e2m1_values(_mm256_srli_epi32(hi, 16 + 4 * i))};
  }
}

struct DecodeMxfp4 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 8;
  static constexpr std::int64_t kScaleK = 32;
  static void decode_step(const std::byte* p, V (&w)[8]) { decode_fp4_step(p, w); }
  static V load_scale(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {power(bytes), power(_mm_srli_si128(bytes, 8))};
  }

 private:
  // 2^(b - 127); b = 0 is the subnormal 2^-127, which the shift alone would lose.
  static __m256 power(__m128i bytes) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23);
    return _mm256_castsi256_ps(_mm256_max_epu32(shifted, _mm256_set1_epi32(0x00400000)));
  }
};

struct DecodeNvfp4 : generic::DecoderBase {
  static constexpr std::int64_t kStepK = 8;
  static constexpr std::int64_t kScaleK = 16;
  static constexpr bool kHasGlobals = true;
  static void decode_step(const std::byte* p, V (&w)[8]) { decode_fp4_step(p, w); }
  static V load_scale(const std::byte* p) {
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return V::mul(from_f16(e4m3_words_to_f16(_mm256_slli_epi16(words, 8))), V::set1(256.0F));
  }
};

// Integer scales are float32; zeros are signed bytes after them.
struct DecodeIntScales : generic::DecoderBase {
  static constexpr std::int64_t kScaleK = generic::kAnyGroup;
  static V load_scale(const std::byte* p) { return V::load(reinterpret_cast<const float*>(p)); }
  static V load_zero(const std::byte* p) {
    const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 64));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(zeros)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(zeros, 8)))};
  }
};

struct DecodeInt8 : DecodeIntScales {
  static constexpr std::int64_t kStepK = 4;
  static void decode_step(const std::byte* p, V (&w)[4]) {
    const __m256i lo = load_half(p);
    const __m256i hi = load_half(p + 32);
    for (int i = 0; i < 4; ++i) w[i] = {byte_values(lo, i), byte_values(hi, i)};
  }

 private:
  // Byte i of each lane, signed.
  static __m256 byte_values(__m256i codes, int i) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(codes, 24 - 8 * i), 24));
  }
};

struct DecodeInt4 : DecodeIntScales {
  static constexpr std::int64_t kStepK = 8;
  static void decode_step(const std::byte* p, V (&w)[8]) {
    const __m256i lo = load_half(p);
    const __m256i hi = load_half(p + 32);
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = {nibble_values(lo, 28 - 4 * i), nibble_values(hi, 28 - 4 * i)};
      w[2 * i + 1] = {nibble_values(lo, 12 - 4 * i), nibble_values(hi, 12 - 4 * i)};
    }
  }

 private:
  // The nibble that a left shift by `up` brings to the top, minus 8: with its top bit flipped it is a
  // signed number of four bits.
  static __m256 nibble_values(__m256i codes, int up) {
    const __m256i flipped =
        _mm256_xor_si256(_mm256_slli_epi32(codes, up), _mm256_set1_epi32(static_cast<int>(0x80000000U)));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(flipped, 28));
  }
};

using DecodeInt8Zeros = generic::WithZeros<DecodeInt8>;
using DecodeInt8ActOrder = generic::WithActOrder<DecodeInt8>;
using DecodeInt4Zeros = generic::WithZeros<DecodeInt4>;
using DecodeInt4ActOrder = generic::WithActOrder<DecodeInt4>;

}  // namespace nibble::kernels::cpu::avx2
