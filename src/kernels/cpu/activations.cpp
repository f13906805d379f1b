#include "kernels/cpu/activations.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace nibble::kernels::cpu {
namespace {

// Round to nearest even; NaN stays NaN.
std::uint32_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : rounded;
}

std::uint32_t to_bf16_pair(float even, float odd) { return to_bf16(even) | to_bf16(odd) << 16; }

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
  if (num_k < kBlockK) std::memset(to, 0, static_cast<std::size_t>(tokens * kBlockK * out.value_bytes()));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t token = tile * out.micro_m + t;
    const float* from = x.data + (x.rows != nullptr ? x.rows[token] : token) * x.stride + k0;
    if (out.bf16) {
      auto* pairs = reinterpret_cast<std::uint32_t*>(to) + t;
      for (std::int64_t k = 0; k + 1 < num_k; k += 2)
        pairs[k / 2 * tokens] = to_bf16_pair(from[k], from[k + 1]);
      if (num_k % 2 != 0) pairs[num_k / 2 * tokens] = to_bf16_pair(from[num_k - 1], 0.0F);
    } else {
      auto* values = reinterpret_cast<float*>(to) + t;
      for (std::int64_t k = 0; k < num_k; ++k) values[k * tokens] = from[k];
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
