// The two inner products of attention, written once over a vector type: scores of queries against
// rows, and sums of rows weighted by probabilities.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu::generic {

// Loads 16 (or the first n) values of a row that is float32 or bf16.
template <class S, bool Bf16>
struct RowReader {
  using V = typename S::V;
  using T = std::conditional_t<Bf16, std::uint16_t, float>;
  static V load(const T* p) {
    if constexpr (Bf16) {
      return V::load_bf16(p);
    } else {
      return V::load(p);
    }
  }
  static V load_first(const T* p, std::int64_t n) {
    if constexpr (Bf16) {
      return V::load_bf16_first(p, n);
    } else {
      return V::load_first(p, n);
    }
  }
};

// Q queries against K keys: Q * K accumulators.
template <class S, bool Bf16, int Q, int K>
inline void dot_tile(const DotBlock& b, std::int64_t q0, std::int64_t k0) {
  using V = typename S::V;
  using R = RowReader<S, Bf16>;
  const float* q = b.q + q0 * b.q_stride;
  const auto* keys = static_cast<const typename R::T*>(b.keys) + k0 * b.key_stride;
  V acc[Q][K];
  for (auto& row : acc) {
    for (V& a : row) a = V::zero();
  }
  std::int64_t d = 0;
  for (; d + 16 <= b.d; d += 16) {
    V kv[K];
    for (int k = 0; k < K; ++k) kv[k] = R::load(keys + k * b.key_stride + d);
    for (int j = 0; j < Q; ++j) {
      const V qv = V::load(q + j * b.q_stride + d);
      for (int k = 0; k < K; ++k) acc[j][k] = V::fma(qv, kv[k], acc[j][k]);
    }
  }
  if (d < b.d) {
    for (int j = 0; j < Q; ++j) {
      const V qv = V::load_first(q + j * b.q_stride + d, b.d - d);
      for (int k = 0; k < K; ++k) {
        acc[j][k] = V::fma(qv, R::load_first(keys + k * b.key_stride + d, b.d - d), acc[j][k]);
      }
    }
  }
  alignas(64) float sums[Q][K];
  if constexpr (Q * K == 16) {
    V flat[16];
    for (int i = 0; i < 16; ++i) flat[i] = acc[i / K][i % K];
    V::store(&sums[0][0], V::reduce16(flat));
  } else {
    for (int j = 0; j < Q; ++j) {
      for (int k = 0; k < K; ++k) sums[j][k] = V::sum(acc[j][k]);
    }
  }
  for (int j = 0; j < Q; ++j) {
    for (int k = 0; k < K; ++k) {
      float& out = b.out[(q0 + j) * b.out_stride + k0 + k];
      out = b.accumulate ? out + sums[j][k] : sums[j][k];
    }
  }
}

template <class S, bool Bf16, int Q>
inline void dot_rows(const DotBlock& b, std::int64_t q0) {
  constexpr int kKeys = 4;
  std::int64_t k = 0;
  for (; k + kKeys <= b.num_keys; k += kKeys) dot_tile<S, Bf16, Q, kKeys>(b, q0, k);
  for (; k < b.num_keys; ++k) dot_tile<S, Bf16, Q, 1>(b, q0, k);
}

template <class S, bool Bf16>
inline void dot_block_of(const DotBlock& b) {
  constexpr int kQueries = S::kMicroPanels == 2 ? 4 : 2;
  std::int64_t q = 0;
  for (; q + kQueries <= b.num_q; q += kQueries) dot_rows<S, Bf16, kQueries>(b, q);
  for (; q < b.num_q; ++q) dot_rows<S, Bf16, 1>(b, q);
}

template <class S>
void dot_block(const DotBlock& b) {
  b.keys_bf16 ? dot_block_of<S, true>(b) : dot_block_of<S, false>(b);
}

// Q queries, C vectors of 16 columns.
template <class S, bool Bf16, int Q, int C>
inline void sum_tile(const WeightedSum& w, std::int64_t q0, std::int64_t c0) {
  using V = typename S::V;
  using R = RowReader<S, Bf16>;
  const auto* values = static_cast<const typename R::T*>(w.values) + c0;
  V acc[Q][C];
  for (int j = 0; j < Q; ++j) {
    for (int c = 0; c < C; ++c) acc[j][c] = V::load(w.out + (q0 + j) * w.out_stride + c0 + 16 * c);
  }
  for (std::int64_t i = 0; i < w.num_values; ++i) {
    V v[C];
    for (int c = 0; c < C; ++c) v[c] = R::load(values + i * w.value_stride + 16 * c);
    for (int j = 0; j < Q; ++j) {
      const V p = V::set1(w.p[(q0 + j) * w.p_stride + i]);
      for (int c = 0; c < C; ++c) acc[j][c] = V::fma(p, v[c], acc[j][c]);
    }
  }
  for (int j = 0; j < Q; ++j) {
    for (int c = 0; c < C; ++c) V::store(w.out + (q0 + j) * w.out_stride + c0 + 16 * c, acc[j][c]);
  }
}

// The last columns, fewer than 16.
template <class S, bool Bf16>
inline void sum_tail(const WeightedSum& w, std::int64_t q, std::int64_t c0) {
  using V = typename S::V;
  using R = RowReader<S, Bf16>;
  const auto* values = static_cast<const typename R::T*>(w.values) + c0;
  const std::int64_t n = w.d - c0;
  float* out = w.out + q * w.out_stride + c0;
  V acc = V::load_first(out, n);
  for (std::int64_t i = 0; i < w.num_values; ++i) {
    acc = V::fma(V::set1(w.p[q * w.p_stride + i]), R::load_first(values + i * w.value_stride, n), acc);
  }
  V::store_first(out, acc, n);
}

template <class S, bool Bf16, int Q>
inline void sum_rows(const WeightedSum& w, std::int64_t q0) {
  constexpr int kColumns = S::kMicroPanels == 2 ? 4 : 2;
  std::int64_t c = 0;
  for (; c + 16 * kColumns <= w.d; c += 16 * kColumns) sum_tile<S, Bf16, Q, kColumns>(w, q0, c);
  for (; c + 16 <= w.d; c += 16) sum_tile<S, Bf16, Q, 1>(w, q0, c);
  if (c < w.d) {
    for (int j = 0; j < Q; ++j) sum_tail<S, Bf16>(w, q0 + j, c);
  }
}

template <class S, bool Bf16>
inline void weighted_sum_of(const WeightedSum& w) {
  constexpr int kQueries = S::kMicroPanels == 2 ? 4 : 2;
  std::int64_t q = 0;
  for (; q + kQueries <= w.num_q; q += kQueries) sum_rows<S, Bf16, kQueries>(w, q);
  for (; q < w.num_q; ++q) sum_rows<S, Bf16, 1>(w, q);
}

template <class S>
void weighted_sum(const WeightedSum& w) {
  w.values_bf16 ? weighted_sum_of<S, true>(w) : weighted_sum_of<S, false>(w);
}

}  // namespace nibble::kernels::cpu::generic
