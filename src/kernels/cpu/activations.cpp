#include "kernels/cpu/activations.h"

#include <algorithm>
#include <bit>

namespace nibble::kernels::cpu {
namespace {

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

XTiles describe(const XRows& x, std::int64_t micro_m, bool bf16, std::byte* out) {
  return {.data = out, .m = x.m, .k = x.k, .micro_m = micro_m, .bf16 = bf16};
}

}  // namespace

void pack_x_block(const XRows& x, const XTiles& out, std::int64_t k_block, std::int64_t tile) {
  const std::int64_t tokens = out.tile_tokens(tile);
  const std::int64_t k0 = k_block * kBlockK;
  const std::int64_t num_k = std::clamp<std::int64_t>(x.k - k0, 0, kBlockK);
  // The tile belongs to us: data is const only for its readers.
  auto* to = const_cast<std::byte*>(out.tile(k_block, tile));
  auto* f32 = reinterpret_cast<float*>(to);
  auto* bf16 = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t token = tile * out.micro_m + t;
    const float* from = x.data + (x.rows != nullptr ? x.rows[token] : token) * x.stride + k0;
    if (out.bf16) {
      for (std::int64_t k = 0; k < num_k; ++k) bf16[(k / 2 * tokens + t) * 2 + k % 2] = to_bf16(from[k]);
      for (std::int64_t k = num_k; k < kBlockK; ++k) bf16[(k / 2 * tokens + t) * 2 + k % 2] = 0;
    } else {
      for (std::int64_t k = 0; k < num_k; ++k) f32[k * tokens + t] = from[k];
      for (std::int64_t k = num_k; k < kBlockK; ++k) f32[k * tokens + t] = 0.0F;
    }
  }
}

XTiles pack_x(const XRows& x, std::int64_t micro_m, bool bf16, std::byte* out) {
  const XTiles tiles = describe(x, micro_m, bf16, out);
  for (std::int64_t kb = 0; kb < ceil_div(x.k, kBlockK); ++kb) {
    for (std::int64_t t = 0; t < tiles.num_tiles(); ++t) pack_x_block(x, tiles, kb, t);
  }
  return tiles;
}

XTiles pack_x(const XRows& x, std::int64_t micro_m, bool bf16, std::byte* out, ThreadPool& threads) {
  // Below this the fork costs more than the copy.
  constexpr std::int64_t kSerialValues = 32768;
  if (x.m * x.k <= kSerialValues) return pack_x(x, micro_m, bf16, out);
  const XTiles tiles = describe(x, micro_m, bf16, out);
  threads.parallel_for(ceil_div(x.k, kBlockK), [&](std::int64_t kb, int) {
    for (std::int64_t t = 0; t < tiles.num_tiles(); ++t) pack_x_block(x, tiles, kb, t);
  });
  return tiles;
}

}  // namespace nibble::kernels::cpu
