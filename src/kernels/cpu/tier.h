// Tier: what one instruction set (avx2, avx512, avx512_bf16) supplies. The ops themselves (threads,
// sorting, packing of activations) are written once above this, in matmul.cpp, moe.cpp and
// attention.cpp; a tier only runs single-threaded tasks on packed data.
//
// Activations are handed over as X tiles: tokens in tiles of up to micro_m, inside a tile [k][tokens]
// (or, for bf16 products, [k / 2][tokens][2]), one k block of 128 after another:
//   x + ((k block * num_tiles + tile) * 128 * micro_m) values; the last tile may hold fewer tokens,
//   and its inner dimension is then that number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/cpu_info.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/pack.h"

namespace nibble::kernels::cpu {

inline constexpr std::int64_t kMaxMicroM = 12;

// Up to this many tokens a task decodes and multiplies at once; above, it decodes tiles and reuses them.
inline constexpr int kFusedM = 4;

// Tokens a matmul task takes at most: keeps its accumulators in the L2 cache.
inline constexpr std::int64_t kBlockM = 48 * kMaxMicroM;

// Packed activations of m tokens.
struct XTiles {
  const std::byte* data = nullptr;
  std::int64_t m = 0;
  std::int64_t k = 0;  // unpadded
  std::int64_t micro_m = 0;
  bool bf16 = false;

  [[nodiscard]] std::int64_t num_tiles() const { return ceil_div(m, micro_m); }
  [[nodiscard]] std::int64_t tile_tokens(std::int64_t tile) const {
    return tile + 1 < num_tiles() ? micro_m : m - tile * micro_m;
  }
  [[nodiscard]] std::int64_t value_bytes() const { return bf16 ? 2 : 4; }
  [[nodiscard]] std::int64_t block_bytes() const { return m * kBlockK * value_bytes(); }
  [[nodiscard]] const std::byte* tile(std::int64_t k_block, std::int64_t tile_idx) const {
    return data + k_block * block_bytes() + tile_idx * micro_m * kBlockK * value_bytes();
  }
  static std::size_t bytes(std::int64_t m, std::int64_t k, bool bf16) {
    return static_cast<std::size_t>(m * round_up(k, kBlockK) * (bf16 ? 2 : 4));
  }
};

// Where a task puts its results: out[row_of(t) * stride + row], times factor[t], set or added.
struct MatmulOutput {
  float* data = nullptr;
  std::int64_t stride = 0;
  const std::int32_t* token_rows = nullptr;  // null: token t is row t
  const float* factors = nullptr;            // null: 1
  bool accumulate = false;
};

// Panels [panel_begin, panel_end) of one weight group times all tokens of x.
struct MatmulTask {
  const std::byte* codes = nullptr;   // of the group
  const std::byte* scales = nullptr;  // of the group
  PanelLayout layout{};
  std::int64_t n = 0;
  std::int64_t panel_begin = 0;
  std::int64_t panel_end = 0;
  XTiles x;
  MatmulOutput out;
  std::byte* scratch = nullptr;  // matmul_scratch_bytes(x.m)
};

// Panels decoded together; a task of more tokens than the fused path takes works in these units.
inline constexpr std::int64_t kTaskPanels = 8;

// Scratch of one thread: a decoded tile of two panels and the accumulators of kTaskPanels panels.
constexpr std::size_t matmul_scratch_bytes(std::int64_t m) {
  return static_cast<std::size_t>(2 * kPanelRows * kBlockK * 4 + kTaskPanels * kPanelRows * m * 4);
}

// y[k_begin .. k_end) of every token = sum over rows of x[row] * w[row][k], one weight group.
struct TransposedTask {
  const std::byte* codes = nullptr;
  const std::byte* scales = nullptr;
  PanelLayout layout{};
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t k_block = 0;  // which block of 128 k
  const float* x = nullptr;  // [m] rows of n values, stride x_stride
  std::int64_t x_stride = 0;
  std::int64_t m = 0;
  float* y = nullptr;  // [m] rows of k values, stride y_stride
  std::int64_t y_stride = 0;
  std::byte* scratch = nullptr;  // transposed_scratch_bytes(n)
};

constexpr std::size_t transposed_scratch_bytes(std::int64_t n) {
  return static_cast<std::size_t>(round_up(n, kPanelRows) * (kBlockK + 1) * 4);
}

// Scores of a few queries against consecutive rows: out[i * out_stride + j] = q_i . key_j over d.
struct DotBlock {
  const float* q = nullptr;
  std::int64_t q_stride = 0;
  std::int64_t num_q = 0;
  const void* keys = nullptr;  // f32, or bf16 when keys_bf16
  bool keys_bf16 = false;
  std::int64_t key_stride = 0;  // in elements
  std::int64_t num_keys = 0;
  std::int64_t d = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
  bool accumulate = false;
};

// out[i, :] += sum_j p[i, j] * values_j, over d.
struct WeightedSum {
  const float* p = nullptr;
  std::int64_t p_stride = 0;
  std::int64_t num_q = 0;
  const void* values = nullptr;
  bool values_bf16 = false;
  std::int64_t value_stride = 0;  // in elements
  std::int64_t num_values = 0;
  std::int64_t d = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

struct FormatKernels {
  // Whether activations are taken as bf16 pairs: for few tokens (the fused path), for more.
  bool bf16_fused = false;
  bool bf16_tiled = false;
  void (*matmul)(const MatmulTask&) = nullptr;

  [[nodiscard]] bool bf16_x(std::int64_t m) const { return m <= kFusedM ? bf16_fused : bf16_tiled; }
};

struct Tier {
  std::string_view name;
  std::int64_t micro_m = 0;
  std::array<FormatKernels, kNumDecoders> fast{};   // indexed by Decoder
  std::array<FormatKernels, kNumDecoders> exact{};  // float32 operands
  std::array<void (*)(const TransposedTask&), kNumDecoders> transposed{};
  void (*dot_block)(const DotBlock&) = nullptr;
  void (*weighted_sum)(const WeightedSum&) = nullptr;
  // out[i] = value of codes[i] * scale for i in [0, n), E5M2 or E4M3.
  void (*decode_fp8)(const std::uint8_t* codes, std::int64_t n, float scale, bool e5m2, float* out) = nullptr;
  // x[i] = exp(x[i] - max) for i in [0, n); returns the sum.
  float (*exp_sum)(float* x, std::int64_t n, float max) = nullptr;
  // y = silu(gate) * up
  void (*silu_mul)(const float* gate, const float* up, float* y, std::int64_t n) = nullptr;
  void (*rms_norm)(const float* x, const float* weight, float eps, float* y, std::int64_t d) = nullptr;
  PackPanel pack_panel = nullptr;
};

// The tier of an instruction set; null for scalar.
const Tier* find_tier(CpuIsa isa);

}  // namespace nibble::kernels::cpu
