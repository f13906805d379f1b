// Matrix products over bf16 pairs (vdpbf16ps): activations rounded to bf16, weights exact, sums in
// float32. Same two paths as generic/matmul.h; weights decode to vectors of 16 rows x 2 k.
#pragma once

#include "kernels/cpu/avx512/decode.h"
#include "kernels/cpu/generic/matmul.h"

namespace nibble::kernels::cpu::avx512_bf16 {

using avx512::Simd;
using avx512::V;

inline __m512bh as_pairs(__m512i bits) { return std::bit_cast<__m512bh>(bits); }

// One step to pairs, for the fused path: bf16 as it is, E2M1 through a 32-entry table (the fifth index
// bit belongs to the next code, so the table holds the sixteen values twice).
struct PairsBf16 : avx512::DecodeBf16 {
  static void decode_pairs(const std::byte* p, __m512i (&w)[1]) { w[0] = avx512::load_step(p); }
};

inline void decode_fp4_pairs(const std::byte* p, __m512i (&w)[4]) {
  // bf16 bits of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
  alignas(64) static constexpr std::uint16_t kValues[32] = {
      0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80,
      0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0, 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040,
      0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0};
  const __m512i values = _mm512_load_si512(kValues);
  const __m512i codes = avx512::load_step(p);
  for (int i = 0; i < 4; ++i)
    w[i] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, static_cast<unsigned>(4 * i)), values);
}

struct PairsMxfp4 : avx512::DecodeMxfp4 {
  static void decode_pairs(const std::byte* p, __m512i (&w)[4]) { decode_fp4_pairs(p, w); }
};

struct PairsNvfp4 : avx512::DecodeNvfp4 {
  static void decode_pairs(const std::byte* p, __m512i (&w)[4]) { decode_fp4_pairs(p, w); }
};

// Two float vectors (16 rows of k and of k + 1) to interleaved bf16 pairs; exact for decoded weights.
inline __m512i interleave(V even, V odd) {
  alignas(64) static constexpr std::uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(odd.r, even.r));
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

inline __m512i broadcast_pair(const std::uint32_t* x) { return _mm512_set1_epi32(static_cast<int>(*x)); }

inline V dot(__m512i w, __m512i x, V sum) { return {_mm512_dpbf16_ps(sum.r, as_pairs(w), as_pairs(x))}; }

template <class D, int M>
inline void fused_panel(const MatmulTask& t, std::int64_t panel) {
  constexpr int kPairs = static_cast<int>(D::kStepK / 2);
  constexpr int kChains = M == 1 ? 4 : M == 2 ? 2 : 1;
  constexpr std::int64_t kGroupK = generic::kGrouped<D> ? D::kScaleK : kBlockK;
  static_assert(kGroupK > 0, "pairs are decoded for fixed groups only");
  const std::byte* codes = t.codes + panel * t.layout.panel_bytes;
  const std::byte* scales = D::kScaleK == 0 ? nullptr : t.scales + panel * t.layout.scale_panel_bytes;
  const auto* x = reinterpret_cast<const std::uint32_t*>(t.x.data);
  V total[M];
  for (V& v : total) v = V::zero();
  for (std::int64_t k0 = 0; k0 < t.layout.k_pad; k0 += kGroupK) {
    V part[M][kChains];
    for (auto& row : part) {
      for (V& v : row) v = V::zero();
    }
    std::int64_t num_k = kGroupK;
    if constexpr (kGroupK > 32) num_k = t.layout.k_pad - k0 < kGroupK ? t.layout.k_pad - k0 : kGroupK;
    for (std::int64_t k = 0; k < num_k; k += D::kStepK) {
      __m512i w[kPairs];
      Simd::prefetch(codes + Simd::kPrefetchBytes);
      D::decode_pairs(codes, w);
      codes += kStepBytes;
      for (int i = 0; i < kPairs; ++i) {
        for (int m = 0; m < M; ++m) {
          V& sum = part[m][(kPairs == 1 ? k / 2 : i) % kChains];
          sum = dot(w[i], broadcast_pair(x + i * M + m), sum);
        }
      }
      x += kPairs * M;
    }
    for (int m = 0; m < M; ++m) {
      for (int c = 1; c < kChains; ++c) part[m][0] = V::add(part[m][0], part[m][c]);
      if constexpr (D::kScaleK == 0) {
        total[m] = V::add(total[m], part[m][0]);
      } else {
        total[m] = V::fma(part[m][0], D::load_scale(scales + k0 / kGroupK * t.layout.scale_bytes), total[m]);
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    if constexpr (D::kHasGlobals) total[m] = V::mul(total[m], generic::row_globals<Simd>(t, panel));
    generic::store_rows<Simd>(t, m, panel * kPanelRows, total[m]);
  }
}

// Supplies the tile of pairs and the product of it to the tiled path.
struct PairTile {
  // [k / 2][panels * 16] pairs; the float tile's rows of k and k + 1 side by side.
  template <class D>
  static void decode(const MatmulTask& t, std::int64_t panel, std::int64_t k_begin, std::int64_t num_k,
                     std::uint32_t* tile, std::int64_t tile_width) {
    generic::decode_block<Simd, D>(t, panel, k_begin, num_k, [&](std::int64_t k, const V(&w)[D::kStepK]) {
      for (int i = 0; i < D::kStepK; i += 2) {
        _mm512_storeu_si512(tile + (k + i) / 2 * tile_width, interleave(w[i], w[i + 1]));
      }
    });
  }

  template <int P, int M>
  static void product(const std::uint32_t* tile, const std::uint32_t* x, std::int64_t num_k, float* acc,
                      const float* block_scales, std::int64_t block_scale_stride) {
    V part[P][M];
    for (auto& row : part) {
      for (V& v : row) v = V::zero();
    }
    for (std::int64_t k = 0; k < num_k; k += 2) {
      __m512i w[P];
      for (int p = 0; p < P; ++p) w[p] = _mm512_loadu_si512(tile + p * kPanelRows);
      for (int m = 0; m < M; ++m) {
        const __m512i xm = broadcast_pair(x + m);
        for (int p = 0; p < P; ++p) part[p][m] = dot(w[p], xm, part[p][m]);
      }
      tile += P * kPanelRows;
      x += M;
    }
    generic::merge_parts<Simd, P, M>(part, acc, block_scales, block_scale_stride);
  }
};

template <class D>
void matmul(const MatmulTask& t) {
  generic::matmul_with<Simd, D, PairTile>(t, [&](auto tokens, std::int64_t panel) {
    if constexpr (requires(const std::byte* p, __m512i(&w)[D::kStepK / 2]) { D::decode_pairs(p, w); }) {
      fused_panel<D, decltype(tokens)::value>(t, panel);
    } else {
      generic::fused_panel<Simd, D, decltype(tokens)::value>(t, panel);
    }
  });
}

}  // namespace nibble::kernels::cpu::avx512_bf16
