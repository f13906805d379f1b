// Packed-weight matrix products, written once over a vector type.
//
// Two paths: few tokens (at most kFusedM) decode a step and multiply at once, nothing is stored; more
// tokens decode a tile of two panels (or one) x 128 k into the L1 cache and run a register-blocked
// product over all tokens, so that a weight is decoded once however many tokens use it.
//
// S supplies: V (16 float lanes: load, store, set1, zero, fma, mul, add), kMicroPanels, kMicroM.
// D supplies the format (decoder.h). The tile is [k][panels * 16] floats.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cpu/generic/decoder.h"
#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::generic {

template <class S>
inline void store_rows(const MatmulTask& t, std::int64_t token, std::int64_t row, typename S::V value) {
  using V = typename S::V;
  const MatmulOutput& out = t.out;
  if (out.factors != nullptr) value = V::mul(value, V::set1(out.factors[token]));
  float* y = out.data + (out.token_rows != nullptr ? out.token_rows[token] : token) * out.stride + row;
  const std::int64_t rows = t.n - row;
  if (rows >= kPanelRows) {
    if (out.accumulate) value = V::add(V::load(y), value);
    V::store(y, value);
    return;
  }
  if (out.accumulate) value = V::add(V::load_first(y, rows), value);
  V::store_first(y, value, rows);
}

template <class S>
inline typename S::V row_globals(const MatmulTask& t, std::int64_t panel) {
  return S::V::load(reinterpret_cast<const float*>(t.scales + t.layout.globals_offset) + panel * kPanelRows);
}

// Whether weights are scaled group by group, rather than each k by its own group's scale or not at all.
template <class D>
inline constexpr bool kGrouped = D::kScaleK != 0 && !D::kActOrder;

// k that are summed before a scale is applied.
template <class D>
inline std::int64_t sum_k(const MatmulTask& t) {
  if constexpr (!kGrouped<D>) return kBlockK;
  return D::kScaleK == kAnyGroup ? t.layout.scale_k : D::kScaleK;
}

// w[i] of k + i: zero and scale of that k's group applied.
template <class S, class D>
inline void apply_order(const MatmulTask& t, const std::byte* panel_scales, std::int64_t k,
                        typename S::V (&w)[D::kStepK]) {
  using V = typename S::V;
  const auto* g_idx = reinterpret_cast<const std::int32_t*>(t.scales + t.layout.g_idx_offset) + k;
  for (int i = 0; i < D::kStepK; ++i) {
    const std::byte* at = panel_scales + g_idx[i] * t.layout.scale_bytes;
    w[i] = V::mul(V::sub(w[i], D::load_zero(at)), D::load_scale(at));
  }
}

// One panel times M tokens, decoding on the fly.
template <class S, class D, int M>
inline void fused_panel(const MatmulTask& t, std::int64_t panel) {
  using V = typename S::V;
  // Independent accumulators per token hide the latency of dependent multiply-adds.
  constexpr int kChains = M == 1 ? 4 : M == 2 ? 2 : 1;
  const std::int64_t group_k = sum_k<D>(t);
  const std::byte* codes = t.codes + panel * t.layout.panel_bytes;
  const std::byte* panel_scales = t.scales + panel * t.layout.scale_panel_bytes;
  const std::byte* scales = panel_scales;
  // The only X tile holds M tokens, so it is contiguous over all k.
  const auto* x = reinterpret_cast<const float*>(t.x.data);
  V total[M];
  for (int m = 0; m < M; ++m) total[m] = V::zero();
  for (std::int64_t k0 = 0; k0 < t.layout.k_pad; k0 += group_k) {
    V part[M][kChains];
    for (int m = 0; m < M; ++m) {
      for (int c = 0; c < kChains; ++c) part[m][c] = V::zero();
    }
    V zero = V::zero();
    if constexpr (kGrouped<D> && D::kHasZeros) zero = D::load_zero(scales);
    // k_pad is a multiple of 32: groups of up to 32 are never cut short.
    std::int64_t num_k = group_k;
    if constexpr (D::kScaleK <= 0) num_k = t.layout.k_pad - k0 < group_k ? t.layout.k_pad - k0 : group_k;
    for (std::int64_t k = 0; k < num_k; k += D::kStepK) {
      V w[D::kStepK];
      S::prefetch(codes + S::kPrefetchBytes);
      D::decode_step(codes, w);
      if constexpr (D::kActOrder) apply_order<S, D>(t, panel_scales, k0 + k, w);
      codes += kStepBytes;
      for (int i = 0; i < D::kStepK; ++i) {
        if constexpr (kGrouped<D> && D::kHasZeros) w[i] = V::sub(w[i], zero);
        for (int m = 0; m < M; ++m) {
          // Steps of one k spread their chains over k instead.
          V& sum = part[m][(D::kStepK == 1 ? k : i) % kChains];
          sum = V::fma(w[i], V::set1(x[i * M + m]), sum);
        }
      }
      x += D::kStepK * M;
    }
    for (int m = 0; m < M; ++m) {
      for (int c = 1; c < kChains; ++c) part[m][0] = V::add(part[m][0], part[m][c]);
    }
    if constexpr (kGrouped<D>) {
      const V scale = D::load_scale(scales);
      for (int m = 0; m < M; ++m) total[m] = V::fma(part[m][0], scale, total[m]);
      scales += t.layout.scale_bytes;
    } else {
      for (int m = 0; m < M; ++m) total[m] = V::add(total[m], part[m][0]);
    }
  }
  for (int m = 0; m < M; ++m) {
    if constexpr (D::kHasGlobals) total[m] = V::mul(total[m], row_globals<S>(t, panel));
    store_rows<S>(t, m, panel * kPanelRows, total[m]);
  }
}

// Scales of one panel that belong to whole k blocks are left to merge_parts, so that the tile holds
// exact codes; null if the tile's weights are scaled already.
template <class D>
inline const float* scales_of_block(const MatmulTask& t, std::int64_t panel, std::int64_t k0) {
  if constexpr (D::kScaleK == kAnyGroup && !D::kActOrder) {
    if (t.layout.scale_k % kBlockK == 0) {
      return reinterpret_cast<const float*>(t.scales + panel * t.layout.scale_panel_bytes +
                                            k0 / t.layout.scale_k * t.layout.scale_bytes);
    }
  }
  return nullptr;
}

// Decodes [k_begin, k_begin + num_k) of one panel, k_begin a multiple of kBlockK: store(k, w) for each
// step of kStepK vectors.
template <class S, class D, class Store>
inline void decode_block(const MatmulTask& t, std::int64_t panel, std::int64_t k_begin, std::int64_t num_k,
                         Store&& store) {
  using V = typename S::V;
  const std::byte* codes = t.codes + panel * t.layout.panel_bytes + k_begin / D::kStepK * kStepBytes;
  const std::byte* panel_scales = t.scales + panel * t.layout.scale_panel_bytes;
  const std::int64_t group_k = sum_k<D>(t);
  const bool scaled = kGrouped<D> && scales_of_block<D>(t, panel, k_begin) == nullptr;
  std::int64_t next_group = 0;
  V scale = V::set1(1.0F);
  V zero = V::zero();
  for (std::int64_t k = 0; k < num_k; k += D::kStepK) {
    if constexpr (kGrouped<D>) {
      if (k == next_group) {
        const std::int64_t group = (k_begin + k) / group_k;
        const std::byte* at = panel_scales + group * t.layout.scale_bytes;
        if (scaled) scale = D::load_scale(at);
        if constexpr (D::kHasZeros) zero = D::load_zero(at);
        next_group = (group + 1) * group_k - k_begin;
      }
    }
    V w[D::kStepK];
    S::prefetch(codes + S::kPrefetchBytes);
    D::decode_step(codes, w);
    codes += kStepBytes;
    if constexpr (D::kActOrder) apply_order<S, D>(t, panel_scales, k_begin + k, w);
    for (int i = 0; i < D::kStepK; ++i) {
      if constexpr (kGrouped<D> && D::kHasZeros) w[i] = V::sub(w[i], zero);
      if (scaled) w[i] = V::mul(w[i], scale);
    }
    store(k, w);
  }
}

// acc[token][panel rows] += part, scaled by the rows' block scales if there are any.
template <class S, int P, int M>
inline void merge_parts(const typename S::V (&part)[P][M], float* acc, const float* block_scales,
                        std::int64_t block_scale_stride) {
  using V = typename S::V;
  for (int p = 0; p < P; ++p) {
    const V scale = block_scales != nullptr ? V::load(block_scales + p * block_scale_stride) : V::set1(1.0F);
    for (int m = 0; m < M; ++m) {
      float* a = acc + (m * P + p) * kPanelRows;
      V::store(a, V::fma(part[p][m], scale, V::load(a)));
    }
  }
}

// How the tiled path stores decoded weights and multiplies with them; this one in float32.
template <class S>
struct FloatTile {
  using V = typename S::V;

  // Decodes [k_begin, k_begin + num_k) of one panel into 16 columns of the tile, [k][tile_width].
  template <class D>
  static void decode(const MatmulTask& t, std::int64_t panel, std::int64_t k_begin, std::int64_t num_k,
                     std::uint32_t* tile, std::int64_t tile_width) {
    decode_block<S, D>(t, panel, k_begin, num_k, [&](std::int64_t k, const V(&w)[D::kStepK]) {
      for (int i = 0; i < D::kStepK; ++i) {
        V::store(reinterpret_cast<float*>(tile + (k + i) * tile_width), w[i]);
      }
    });
  }

  // acc[token][panel rows] += tile * x tile, for M tokens and P panels.
  template <int P, int M>
  static void product(const std::uint32_t* tile_words, const std::uint32_t* x_words, std::int64_t num_k,
                      float* acc, const float* block_scales, std::int64_t block_scale_stride) {
    const auto* tile = reinterpret_cast<const float*>(tile_words);
    const auto* x = reinterpret_cast<const float*>(x_words);
    V part[P][M];
    for (auto& row : part) {
      for (V& v : row) v = V::zero();
    }
    for (std::int64_t k = 0; k < num_k; ++k) {
      V w[P];
      for (int p = 0; p < P; ++p) w[p] = V::load(tile + p * kPanelRows);
      for (int m = 0; m < M; ++m) {
        const V xm = V::set1(x[m]);
        for (int p = 0; p < P; ++p) part[p][m] = V::fma(w[p], xm, part[p][m]);
      }
      tile += P * kPanelRows;
      x += M;
    }
    merge_parts<S, P, M>(part, acc, block_scales, block_scale_stride);
  }
};

// Dispatches the number of tokens of a tile to a compile-time constant.
template <class F, int... M>
inline void with_tokens(std::int64_t tokens, F&& f, std::integer_sequence<int, M...>) {
  (void)((tokens == M + 1 ? (f(std::integral_constant<int, M + 1>{}), true) : false) || ...);
}

template <class S, class D, class Tile, int P>
inline void tiled_panels(const MatmulTask& t, std::int64_t panel_begin, std::int64_t panel_end) {
  using V = typename S::V;
  auto* tile = reinterpret_cast<std::uint32_t*>(t.scratch);
  auto* acc = reinterpret_cast<float*>(tile + 2 * kPanelRows * kBlockK);
  const std::int64_t units = (panel_end - panel_begin) / P;
  const std::int64_t unit_floats = P * kPanelRows * t.x.m;
  for (std::int64_t i = 0; i < units * unit_floats; i += kPanelRows) V::store(acc + i, V::zero());

  for (std::int64_t k0 = 0; k0 < t.layout.k_pad; k0 += kBlockK) {
    const std::int64_t num_k = t.layout.k_pad - k0 < kBlockK ? t.layout.k_pad - k0 : kBlockK;
    for (std::int64_t u = 0; u < units; ++u) {
      const std::int64_t panel = panel_begin + u * P;
      for (int p = 0; p < P; ++p) {
        Tile::template decode<D>(t, panel + p, k0, num_k, tile + p * kPanelRows, P * kPanelRows);
      }
      const float* block_scales = scales_of_block<D>(t, panel, k0);
      for (std::int64_t i = 0; i < t.x.num_tiles(); ++i) {
        const auto* x = reinterpret_cast<const std::uint32_t*>(t.x.tile(k0 / kBlockK, i));
        float* a = acc + u * unit_floats + i * t.x.micro_m * P * kPanelRows;
        with_tokens(
            t.x.tile_tokens(i),
            [&](auto tokens) {
              Tile::template product<P, decltype(tokens)::value>(tile, x, num_k, a, block_scales,
                                                                 t.layout.scale_panel_bytes / 4);
            },
            std::make_integer_sequence<int, S::kMicroM>{});
      }
    }
  }

  for (std::int64_t u = 0; u < units; ++u) {
    for (int p = 0; p < P; ++p) {
      const std::int64_t panel = panel_begin + u * P + p;
      V globals = V::set1(1.0F);
      if constexpr (D::kHasGlobals) globals = row_globals<S>(t, panel);
      for (std::int64_t token = 0; token < t.x.m; ++token) {
        V value = V::load(acc + u * unit_floats + (token * P + p) * kPanelRows);
        if constexpr (D::kHasGlobals) value = V::mul(value, globals);
        store_rows<S>(t, token, panel * kPanelRows, value);
      }
    }
  }
}

// Runs fused(tokens, panel) for few tokens, tiles for more.
template <class S, class D, class Tile, class Fused>
inline void matmul_with(const MatmulTask& t, Fused&& fused) {
  if (t.x.m <= kFusedM) {
    with_tokens(
        t.x.m,
        [&](auto tokens) {
          for (std::int64_t p = t.panel_begin; p < t.panel_end; ++p) fused(tokens, p);
        },
        std::make_integer_sequence<int, kFusedM>{});
    return;
  }
  constexpr int P = S::kMicroPanels;
  for (std::int64_t begin = t.panel_begin; begin < t.panel_end; begin += kTaskPanels) {
    const std::int64_t end = begin + kTaskPanels < t.panel_end ? begin + kTaskPanels : t.panel_end;
    const std::int64_t paired = (end - begin) / P * P;
    if (paired > 0) tiled_panels<S, D, Tile, P>(t, begin, begin + paired);
    if (begin + paired < end) tiled_panels<S, D, Tile, 1>(t, begin + paired, end);
  }
}

template <class S, class D>
void matmul(const MatmulTask& t) {
  matmul_with<S, D, FloatTile<S>>(
      t, [&](auto tokens, std::int64_t panel) { fused_panel<S, D, decltype(tokens)::value>(t, panel); });
}

// y[k] = sum over rows of x[row] * w[row][k] for one block of 128 k.
template <class S, class D>
void transposed(const TransposedTask& t) {
  using V = typename S::V;
  const std::int64_t k0 = t.k_block * kBlockK;
  const std::int64_t num_k = t.layout.k_pad - k0 < kBlockK ? t.layout.k_pad - k0 : kBlockK;
  const std::int64_t num_panels = t.layout.num_panels;
  auto* tile = reinterpret_cast<float*>(t.scratch);  // [panel][128][16]
  float* x_rows = tile + num_panels * kBlockK * kPanelRows;
  const MatmulTask group{.codes = t.codes, .scales = t.scales, .layout = t.layout, .n = t.n};
  for (std::int64_t p = 0; p < num_panels; ++p) {
    FloatTile<S>::template decode<D>(
        group, p, k0, num_k, reinterpret_cast<std::uint32_t*>(tile + p * kBlockK * kPanelRows), kPanelRows);
  }
  for (std::int64_t token = 0; token < t.m; ++token) {
    // Row factors (global and block scales) go to the x side, so the tile is used as it is.
    for (std::int64_t p = 0; p < num_panels; ++p) {
      const std::int64_t rows = t.n - p * kPanelRows;
      const float* from = t.x + token * t.x_stride + p * kPanelRows;
      V x = rows >= kPanelRows ? V::load(from) : V::load_first(from, rows);
      if constexpr (D::kHasGlobals) x = V::mul(x, row_globals<S>(group, p));
      if (const float* block_scales = scales_of_block<D>(group, p, k0)) {
        x = V::mul(x, V::load(block_scales));
      }
      V::store(x_rows + p * kPanelRows, x);
    }
    float* y = t.y + token * t.y_stride + k0;
    for (std::int64_t k = 0; k < num_k && k0 + k < t.k; k += kPanelRows) {
      V acc[kPanelRows];
      for (auto& a : acc) a = V::zero();
      for (std::int64_t p = 0; p < num_panels; ++p) {
        const V x = V::load(x_rows + p * kPanelRows);
        const float* w = tile + (p * kBlockK + k) * kPanelRows;
        for (int i = 0; i < kPanelRows; ++i) acc[i] = V::fma(V::load(w + i * kPanelRows), x, acc[i]);
      }
      const V sums = V::reduce16(acc);
      const std::int64_t left = t.k - k0 - k;
      if (left >= kPanelRows) {
        V::store(y + k, sums);
      } else {
        V::store_first(y + k, sums, left);
      }
    }
  }
}

}  // namespace nibble::kernels::cpu::generic
