// Packing activations into X tiles (tier.h).
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "kernels/cpu/tier.h"

namespace nibble::kernels::cpu {

// A gather of activation rows: token t is row rows[t] (or t) of `data`.
struct XRows {
  const float* data = nullptr;
  std::int64_t stride = 0;
  const std::int32_t* rows = nullptr;
  std::int64_t m = 0;
  std::int64_t k = 0;
};

// Packs into `out`, which must hold XTiles::bytes(m, k, bf16). One k block of one tile.
void pack_x_block(const XRows& x, const XTiles& out, std::int64_t k_block, std::int64_t tile);

// All of it on this thread / on the team.
XTiles pack_x(const XRows& x, std::int64_t micro_m, bool bf16, std::byte* out);
XTiles pack_x(const XRows& x, std::int64_t micro_m, bool bf16, std::byte* out, ThreadPool& threads);

}  // namespace nibble::kernels::cpu
