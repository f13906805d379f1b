// Products in float32 for every format: the router's, and whatever no faster kernel takes. Those of many
// tokens go to exact_prefill.cu where it takes them.
//
// A warp holds one or two row tiles as fragments (fragment.cuh) and multiplies them by a tile of tokens read
// straight from memory; each weight is decoded once per token tile. Warps split rows or k; blocks of a
// cluster split k further, so that even the 256 x 7168 router at one token spreads over the machine. Partial
// sums are added in a fixed order.
#include <algorithm>

#include "kernels/cuda/clusters.h"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/copy.cuh"
#include "kernels/cuda/linear/dispatch.h"
#include "kernels/cuda/linear/exact_prefill.h"
#include "kernels/cuda/linear/product.h"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kWarps = 8;

// Tokens and row tiles of a warp. kPairs: inputs are read two at a time and without bounds checks, which rows
// at even addresses and k in whole blocks allow.
template <int kTokensOf, int kTilesOf, bool kPairsOf>
struct ExactConfig {
  static constexpr bool kPairs = kPairsOf;
  static constexpr int kTokens = kTokensOf;
  static constexpr int kTiles = kTilesOf;
  static constexpr int kRows = kTiles * kTileRows;  // of a warp
};
using OneToken = ExactConfig<1, 1, false>;
using ManyTokens = ExactConfig<8, 2, false>;
using ManyAlignedTokens = ExactConfig<8, 2, true>;

struct ExactSplit {
  int warps_n;  // warps side by side along the rows; the others split k
  int cluster;  // blocks that split k
};

// The lane's four inputs of a step, for one token.
struct StepInputs {
  float v[4];
};

template <bool kPairs>
__device__ __forceinline__ StepInputs load_inputs(const float* x, const std::int32_t* permutation, int column,
                                                  int k) {
  StepInputs inputs;
  if constexpr (kPairs) {
    const float2 low = *reinterpret_cast<const float2*>(x + column);
    const float2 high = *reinterpret_cast<const float2*>(x + column + 8);
    inputs.v[0] = low.x, inputs.v[1] = low.y, inputs.v[2] = high.x, inputs.v[3] = high.y;
  } else {
    constexpr int kOffsets[4] = {0, 1, 8, 9};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int kk = column + kOffsets[i];
      if (permutation != nullptr) kk = permutation[kk];
      inputs.v[i] = kk >= 0 && kk < k ? x[kk] : 0.0F;
    }
  }
  return inputs;
}

template <Format kFormat, class Config>
__device__ __forceinline__ void add_block(const Product& p, const std::int32_t* permutation,
                                          const float* const (&x)[Config::kTokens],
                                          const TileAddress (&tiles)[Config::kTiles], int block, int lane,
                                          float (&sums)[Config::kTiles][2][Config::kTokens]) {
  LaneCodes<kFormat> codes[Config::kTiles];
#pragma unroll
  for (int i = 0; i < Config::kTiles; ++i) {
    codes[i].load(tiles[i].codes + static_cast<std::int64_t>(block) * block_bytes(kFormat), lane);
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    float weights[Config::kTiles][8];
    float scale[2];
#pragma unroll
    for (int i = 0; i < Config::kTiles; ++i) {
      const RowOperands operands = load_operands<kFormat>(p.w, tiles[i].scales, block, step, lane, scale);
      decode_floats(codes[i], step, operands, weights[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) weights[i][j] *= scale[j / 2 % 2];
    }
    const int column = block * kBlockK + step * 16 + lane % 4 * 2;
#pragma unroll
    for (int token = 0; token < Config::kTokens; ++token) {
      const StepInputs in = load_inputs<Config::kPairs>(x[token], permutation, column, p.w.k);
#pragma unroll
      for (int i = 0; i < Config::kTiles; ++i) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float sum = sums[i][row][token];
          sum = fmaf(weights[i][2 * row], in.v[0], sum);
          sum = fmaf(weights[i][2 * row + 1], in.v[1], sum);
          sum = fmaf(weights[i][2 * row + 4], in.v[2], sum);
          sums[i][row][token] = fmaf(weights[i][2 * row + 5], in.v[3], sum);
        }
      }
    }
  }
}

// grid: x = row groups x cluster, y = token tiles, z = groups.
template <Format kFormat, class Config>
__global__ void __launch_bounds__(kWarps * 32, 2)
    exact_product_kernel(const __grid_constant__ Product p, const ExactSplit split) {
  let_next_kernel_start();
  constexpr int kTokens = Config::kTokens;
  constexpr int kRows = Config::kRows;
  // [k part of the block][row][token], then summed into the first part.
  __shared__ float partial[kWarps * kRows * kTokens];

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.z);
  const int rank = static_cast<int>(blockIdx.x) % split.cluster;
  const int row_group = static_cast<int>(blockIdx.x) / split.cluster;
  const int token0 = static_cast<int>(blockIdx.y) * kTokens;
  const int k_warps = kWarps / split.warps_n;
  const int block_rows = split.warps_n * kRows;

  const std::int32_t* permutation = permutation_of(p.w, head);
  const float* x[kTokens];
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    x[token] = p.x + min(token0 + token, p.m - 1) * p.x_stride + head * p.x_head_stride;
  }
  TileAddress tiles[Config::kTiles];
  const int tile0 = (row_group * split.warps_n + warp % split.warps_n) * Config::kTiles;
#pragma unroll
  for (int i = 0; i < Config::kTiles; ++i)
    tiles[i] = tile_address(p.w, head, min(tile0 + i, p.w.num_tiles - 1));

  const int first_block = rank * k_warps + warp / split.warps_n;
  const int block_step = k_warps * split.cluster;
  if constexpr (kTokens == 1) {
    // Weights are constant: so much of them may come to L2 while earlier kernels run.
    constexpr int kAhead = format_bits(kFormat) > 16 ? 1 : 4096 / block_bytes(kFormat);
    const int ahead = first_block + lane * block_step;
    if (lane < kAhead && tile0 < p.w.num_tiles && ahead < p.w.num_blocks) {
      prefetch_global(tiles[0].codes + static_cast<std::int64_t>(ahead) * block_bytes(kFormat),
                      block_bytes(kFormat));
    }
  }
  wait_for_earlier_kernels();
  float sums[Config::kTiles][2][kTokens] = {};
  if (tile0 < p.w.num_tiles) {
    for (int block = first_block; block < p.w.num_blocks; block += block_step) {
      add_block<kFormat, Config>(p, permutation, x, tiles, block, lane, sums);
    }
  }
  float* mine = partial + (warp / split.warps_n * block_rows + warp % split.warps_n * kRows) * kTokens;
#pragma unroll
  for (int i = 0; i < Config::kTiles; ++i) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        float sum = sums[i][row][token];
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
        if (lane % 4 == 0) mine[(i * kTileRows + row * 8 + lane / 4) * kTokens + token] = sum;
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < block_rows * kTokens; i += kWarps * 32) {
    for (int part = 1; part < k_warps; ++part) partial[i] += partial[part * block_rows * kTokens + i];
  }
  if (split.cluster > 1) cluster_sync();
  if (rank == 0) {
    const std::int64_t head_rows = static_cast<std::int64_t>(head) * p.w.group_scale_bytes;
    for (int i = static_cast<int>(threadIdx.x); i < block_rows * kTokens; i += kWarps * 32) {
      const int row = row_group * block_rows + i / kTokens;
      const int token = token0 + i % kTokens;
      if (row >= p.w.n || token >= p.m) continue;
      float sum = partial[i];
      for (int r = 1; r < split.cluster; ++r) {
        sum += load_remote(remote_address(shared_address(partial + i), r));
      }
      const std::byte* scales = p.w.scales + head_rows + row / kTileRows * p.w.tile_scale_bytes;
      sum *= row_factor(p.w, scales, row % kTileRows);
      float* y = p.y + token * p.y_stride + head * p.y_head_stride + row;
      *y = p.accumulate ? *y + sum : sum;
    }
  }
  if (split.cluster > 1) cluster_sync();
}

bool has_aligned_pairs(const Product& p) {
  return reinterpret_cast<std::uintptr_t>(p.x) % 8 == 0 && p.x_stride % 2 == 0 && p.x_head_stride % 2 == 0 &&
         p.w.k % kBlockK == 0 && p.w.permutation_offset == 0;
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <Format kFormat, class Config>
void launch_config(const Product& p, const Launch& launch) {
  const int token_tiles = ceil_div(p.m, Config::kTokens);
  const auto blocks = [&](int warps_n) {
    return static_cast<std::int64_t>(ceil_div(p.w.num_tiles, warps_n * Config::kTiles)) * token_tiles *
           p.w.num_groups;
  };
  ExactSplit split{.warps_n = kWarps, .cluster = 1};
  while (split.warps_n > 1 && blocks(split.warps_n) < 2 * launch.num_sms) split.warps_n /= 2;
  const auto k_parts = [&] { return kWarps / split.warps_n * split.cluster; };
  while (split.cluster < kMaxCluster && blocks(split.warps_n) * split.cluster < launch.num_sms &&
         k_parts() < p.w.num_blocks) {
    split.cluster *= 2;
  }
  const int row_groups = ceil_div(p.w.num_tiles, split.warps_n * Config::kTiles);
  const dim3 grid(static_cast<unsigned>(row_groups * split.cluster), static_cast<unsigned>(token_tiles),
                  static_cast<unsigned>(p.w.num_groups));
  launch_overlapped(exact_product_kernel<kFormat, Config>, grid, Together{.cluster = split.cluster},
                    kWarps * 32, 0, launch.stream, p, split);
}

// One block per token; four lanes read the row's part of a block.
template <Format kFormat>
__global__ void embed_kernel(const __grid_constant__ PackedWeight table, const std::int32_t* ids, float* y,
                             std::int64_t y_stride) {
  const int id = ids[blockIdx.x];
  float* out = y + blockIdx.x * y_stride;
  if (id < 0 || id >= table.n) {
    for (int i = static_cast<int>(threadIdx.x); i < table.k; i += static_cast<int>(blockDim.x)) {
      out[i] = __int_as_float(0x7FC00000);
    }
    return;
  }
  const int row = id % kTileRows;
  const int lane = row % 8 * 4 + static_cast<int>(threadIdx.x) % 4;  // of the warp that would hold the row
  const TileAddress tile = tile_address(table, 0, id / kTileRows);
  const std::int32_t* permutation = permutation_of(table, 0);
  const float factor = row_factor(table, tile.scales, row);
  for (int block = static_cast<int>(threadIdx.x) / 4; block < table.num_blocks;
       block += static_cast<int>(blockDim.x) / 4) {
    LaneCodes<kFormat> codes;
    codes.load(tile.codes + static_cast<std::int64_t>(block) * block_bytes(kFormat), lane);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      float scale[2];
      const RowOperands operands = load_operands<kFormat>(table, tile.scales, block, step, lane, scale);
      float weights[8];
      decode_floats(codes, step, operands, weights);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        constexpr int kOffsets[4] = {0, 1, 8, 9};
        const int at = i / 2 * 4 + i % 2;
        const float weight = row < 8 ? weights[at] * scale[0] : weights[at + 2] * scale[1];
        int kk = block * kBlockK + step * 16 + lane % 4 * 2 + kOffsets[i];
        if (permutation != nullptr) kk = permutation[kk];
        if (kk >= 0 && kk < table.k) out[kk] = weight * factor;
      }
    }
  }
}

__global__ void silu_mul_kernel(const float* gate, const float* up, int n, float* y, std::int64_t y_stride) {
  const std::int64_t row = blockIdx.x;
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= n) return;
  const float g = gate[row * n + column];
  y[row * y_stride + column] = g / (1.0F + expf(-g)) * up[row * n + column];
}

}  // namespace

void launch_exact_product(const Product& p, const Launch& launch) {
  if (p.m == 0 || p.w.n == 0) return;
  if (takes_exact_prefill(p)) return launch_exact_prefill_product(p, launch);
  dispatch_format(p.w.format, [&](auto format) {
    constexpr Format kFormat = decltype(format)::value;
    if (p.m <= 2) {
      launch_config<kFormat, OneToken>(p, launch);
    } else if (has_aligned_pairs(p)) {
      launch_config<kFormat, ManyAlignedTokens>(p, launch);
    } else {
      launch_config<kFormat, ManyTokens>(p, launch);
    }
  });
}

void launch_embed(const PackedWeight& table, const std::int32_t* ids, int m, float* y, std::int64_t y_stride,
                  const Launch& launch) {
  if (m == 0) return;
  dispatch_format(table.format, [&](auto format) {
    embed_kernel<decltype(format)::value>
        <<<static_cast<unsigned>(m), 128, 0, launch.stream>>>(table, ids, y, y_stride);
  });
}

void launch_silu_mul(const float* gate, const float* up, int m, int n, float* y, std::int64_t y_stride,
                     const Launch& launch) {
  if (m == 0 || n == 0) return;
  const dim3 grid(static_cast<unsigned>(m), static_cast<unsigned>(ceil_div(n, 256)));
  silu_mul_kernel<<<grid, 256, 0, launch.stream>>>(gate, up, n, y, y_stride);
}

}  // namespace nibble::kernels::cuda
