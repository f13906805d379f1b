// Many small products, one per head, with mma.sync: y[i, h] = w[h] x[i, h] and y[i, h] = w[h]^T x[i, h].
//
// A warp keeps one row tile (or, transposed, one block of 64 columns) of a head as the M side of the MMA and
// up to 32 tokens as its N side; activations are rounded to bf16 on the way from memory. The transposed
// product turns the fragments over with movmatrix; its scales belong to the summed side and are multiplied
// into the activations before these are rounded.
#include <algorithm>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/product.h"
#include "kernels/cuda/linear/ptx.cuh"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;

struct HeadProduct {
  Product p;
  bool pairs_aligned;  // inputs can be read two at a time, without bounds checks
};

// The lane's B fragment of a k16 step for one token: inputs column, + 1, + 8, + 9.
struct TokenFragment {
  std::uint32_t b0;
  std::uint32_t b1;
};

__device__ __forceinline__ float checked_input(const float* x, const std::int32_t* permutation, int column,
                                               int size) {
  const int i = permutation != nullptr ? permutation[column] : column;
  return i >= 0 && i < size ? x[i] : 0.0F;
}

__device__ __forceinline__ TokenFragment load_fragment(const HeadProduct& h, const float* x,
                                                       const std::int32_t* permutation, int column) {
  if (h.pairs_aligned) {
    const float2 low = *reinterpret_cast<const float2*>(x + column);
    const float2 high = *reinterpret_cast<const float2*>(x + column + 8);
    return {.b0 = round_pair(low.x, low.y), .b1 = round_pair(high.x, high.y)};
  }
  const int k = h.p.w.k;
  return {.b0 = round_pair(checked_input(x, permutation, column, k),
                           checked_input(x, permutation, column + 1, k)),
          .b1 = round_pair(checked_input(x, permutation, column + 8, k),
                           checked_input(x, permutation, column + 9, k))};
}

// grid: x = row tiles / kWarps, y = token tiles, z = heads.
template <Format kFormat, int kTokenTiles>
__global__ void __launch_bounds__(kWarps * 32) head_product_kernel(const __grid_constant__ HeadProduct h) {
  const Product& p = h.p;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.z);
  const int tile = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (tile >= p.w.num_tiles) return;
  const int token0 = static_cast<int>(blockIdx.y) * kTokenTiles * 8;
  const TileAddress address = tile_address(p.w, head, tile);
  const std::int32_t* permutation = permutation_of(p.w, head);
  const float* x[kTokenTiles];
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    const int token = min(token0 + i * 8 + lane / 4, p.m - 1);
    x[i] = p.x + token * p.x_stride + head * p.x_head_stride;
  }
  float sums[kTokenTiles][4] = {};
  LaneCodes<kFormat> next;
  next.load(address.codes, lane);
  for (int block = 0; block < p.w.num_blocks; ++block) {
    const LaneCodes<kFormat> codes = next;
    if (block + 1 < p.w.num_blocks) {
      next.load(address.codes + static_cast<std::int64_t>(block + 1) * block_bytes(kFormat), lane);
    }
#pragma unroll
    for (int chunk = 0; chunk < kBlockK / kChunkK; ++chunk) {
      float part[kTokenTiles][4] = {};
      float scale[2];
#pragma unroll
      for (int step = 2 * chunk; step < 2 * chunk + 2; ++step) {
        const RowOperands operands = load_operands<kFormat>(p.w, address.scales, block, step, lane, scale);
        std::uint32_t a[4];
        decode_step(codes, step, operands, a);
        const int column = block * kBlockK + step * 16 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kTokenTiles; ++i) {
          const TokenFragment b = load_fragment(h, x[i], permutation, column);
          ptx::mma_bf16(has_wide_scales(kFormat) ? part[i] : sums[i], a, b.b0, b.b1);
          if constexpr (splits_weights(kFormat)) {
            std::uint32_t rest[4];
            decode_step(codes, step, operands, rest, true);
            ptx::mma_bf16(sums[i], rest, b.b0, b.b1);
          }
        }
      }
      if constexpr (has_wide_scales(kFormat)) {
#pragma unroll
        for (int i = 0; i < kTokenTiles; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(scale[j / 2], part[i][j], sums[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int row = lane / 4 + j / 2 * 8;
    const float factor = row_factor(p.w, address.scales, row);
#pragma unroll
    for (int i = 0; i < kTokenTiles; ++i) {
      const int token = token0 + i * 8 + lane % 4 * 2 + j % 2;
      if (token < p.m && tile * kTileRows + row < p.w.n) {
        p.y[token * p.y_stride + head * p.y_head_stride + tile * kTileRows + row] = factor * sums[i][j];
      }
    }
  }
}

// What an input of weight row `row` is multiplied by for columns of `chunk`.
template <Format kFormat>
__device__ __forceinline__ float input_scale(const PackedWeight& w, const std::byte* tile_scales, int chunk,
                                             int row) {
  if constexpr (has_wide_scales(kFormat)) return wide_scale(tile_scales, scale_group(w, chunk), row);
  return row_factor(w, tile_scales, row);
}

// grid: x = blocks of 64 columns / kWarps, y = token tiles, z = heads.
template <Format kFormat, int kTokenTiles>
__global__ void __launch_bounds__(kWarps * 32) transposed_product_kernel(const __grid_constant__ Product p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.z);
  const int block = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (block >= p.w.num_blocks) return;
  const int token0 = static_cast<int>(blockIdx.y) * kTokenTiles * 8;
  const float* x[kTokenTiles];
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    const int token = min(token0 + i * 8 + lane / 4, p.m - 1);
    x[i] = p.x + token * p.x_stride + head * p.x_head_stride;
  }
  const auto codes_of = [&](int tile) {
    return tile_address(p.w, head, tile).codes + static_cast<std::int64_t>(block) * block_bytes(kFormat);
  };
  constexpr int kOffsets[4] = {0, 1, 8, 9};
  float sums[4][kTokenTiles][4] = {};  // [16 columns each]
  LaneCodes<kFormat> next;
  next.load(codes_of(0), lane);
  for (int tile = 0; tile < p.w.num_tiles; ++tile) {
    const LaneCodes<kFormat> codes = next;
    if (tile + 1 < p.w.num_tiles) next.load(codes_of(tile + 1), lane);
    const std::byte* scales = tile_address(p.w, head, tile).scales;
    float inputs[kTokenTiles][4];
#pragma unroll
    for (int i = 0; i < kTokenTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = tile * kTileRows + lane % 4 * 2 + kOffsets[j];
        inputs[i][j] = row < p.w.n ? x[i][row] : 0.0F;
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < kBlockK / kChunkK; ++chunk) {
      float scale[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scale[j] = input_scale<kFormat>(p.w, scales, block * (kBlockK / kChunkK) + chunk,
                                        lane % 4 * 2 + kOffsets[j]);
      }
      TokenFragment b[kTokenTiles];
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
        b[i] = {.b0 = round_pair(inputs[i][0] * scale[0], inputs[i][1] * scale[1]),
                .b1 = round_pair(inputs[i][2] * scale[2], inputs[i][3] * scale[3])};
      }
#pragma unroll
      for (int step = 2 * chunk; step < 2 * chunk + 2; ++step) {
        float unused[2];
        const RowOperands operands = load_operands<kFormat>(p.w, scales, block, step, lane, unused);
#pragma unroll
        for (int part = 0; part < (splits_weights(kFormat) ? 2 : 1); ++part) {
          std::uint32_t a[4];
          decode_step(codes, step, operands, a, part == 1);
          const std::uint32_t turned[4] = {ptx::transpose_8x8(a[0]), ptx::transpose_8x8(a[2]),
                                           ptx::transpose_8x8(a[1]), ptx::transpose_8x8(a[3])};
#pragma unroll
          for (int i = 0; i < kTokenTiles; ++i) ptx::mma_bf16(sums[step][i], turned, b[i].b0, b[i].b1);
        }
      }
    }
  }
  const std::int32_t* permutation = permutation_of(p.w, head);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int kk = block * kBlockK + step * 16 + lane / 4 + j / 2 * 8;
      if (permutation != nullptr) kk = permutation[kk];
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
        const int token = token0 + i * 8 + lane % 4 * 2 + j % 2;
        if (token < p.m && kk >= 0 && kk < p.w.k) {
          p.y[token * p.y_stride + head * p.y_head_stride + kk] = sums[step][i][j];
        }
      }
    }
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

dim3 grid_of(const Product& p, int units, int tokens) {
  return {static_cast<unsigned>(ceil_div(units, kWarps)), static_cast<unsigned>(ceil_div(p.m, tokens)),
          static_cast<unsigned>(p.w.num_groups)};
}

bool is_even_address(const float* x) { return reinterpret_cast<std::uintptr_t>(x) % 8 == 0; }

}  // namespace

void launch_head_product(const Product& p, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  const HeadProduct h{.p = p,
                      .pairs_aligned = is_even_address(p.x) && p.x_stride % 2 == 0 &&
                                       p.x_head_stride % 2 == 0 && p.w.k % kBlockK == 0 &&
                                       p.w.permutation_offset == 0};
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (p.m <= 8) {
      head_product_kernel<kFormat, 1><<<grid_of(p, p.w.num_tiles, 8), kWarps * 32, 0, launch.stream>>>(h);
    } else {
      head_product_kernel<kFormat, 4><<<grid_of(p, p.w.num_tiles, 32), kWarps * 32, 0, launch.stream>>>(h);
    }
  });
}

void launch_transposed_product(const Product& p, const Launch& launch) {
  if (p.m == 0 || p.w.k == 0) return;
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (p.m <= 8) {
      transposed_product_kernel<kFormat, 1>
          <<<grid_of(p, p.w.num_blocks, 8), kWarps * 32, 0, launch.stream>>>(p);
    } else {
      transposed_product_kernel<kFormat, 4>
          <<<grid_of(p, p.w.num_blocks, 32), kWarps * 32, 0, launch.stream>>>(p);
    }
  });
}

}  // namespace nibble::kernels::cuda
