#include "kernels/cuda/moe/prefill.cuh"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kGatherThreads = 256;
constexpr int kGatherBlocks = 16;  // k64 blocks a CUDA block rounds of its tile

// Tile blockIdx.x, columns of kGatherBlocks blocks; a thread rounds 8 columns of a token at a time.
template <bool kVectors>
__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(const __grid_constant__ PrefillParams params) {
  const MoeParams& p = params.p;
  if (static_cast<int>(blockIdx.x) >= *p.route.num_tiles) return;
  const Tile tile = p.route.tiles[blockIdx.x];
  const int num_blocks = p.gate.num_blocks;
  const int block_begin = static_cast<int>(blockIdx.y) * kGatherBlocks;
  const int pieces = (min(num_blocks, block_begin + kGatherBlocks) - block_begin) * 8;
  const int k = p.gate.k;
  auto* out = reinterpret_cast<std::byte*>(params.x);
  for (int i = static_cast<int>(threadIdx.x); i < pieces * tile.count; i += kGatherThreads) {
    const int token = i / pieces;
    const int piece = i % pieces;
    const int column = block_begin * kBlockK + piece * 8;
    const float* x = p.x + std::int64_t{p.route.sorted[tile.begin + token] / p.topk} * p.x_stride + column;
    float v[8];
    if (kVectors && column + 8 <= k) {
      const float4 low = *reinterpret_cast<const float4*>(x);
      const float4 high = *reinterpret_cast<const float4*>(x + 4);
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
      for (int j = 0; j < 8; ++j) v[j] = column + j < k ? x[j] : 0.0F;
    }
    const std::int64_t at = piece_offset(tile, num_blocks, block_begin + piece / 8, token, piece % 8);
    *reinterpret_cast<uint4*>(out + at) = make_uint4(round_pair(v[0], v[1]), round_pair(v[2], v[3]),
                                                     round_pair(v[4], v[5]), round_pair(v[6], v[7]));
  }
}

}  // namespace

void launch_prefill_gather(const PrefillParams& params, cudaStream_t stream) {
  const MoeParams& p = params.p;
  const bool vectors = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0;
  const dim3 grid(static_cast<unsigned>(params.max_tiles),
                  static_cast<unsigned>((p.gate.num_blocks + kGatherBlocks - 1) / kGatherBlocks));
  (vectors ? gather_kernel<true> : gather_kernel<false>)<<<grid, kGatherThreads, 0, stream>>>(params);
}

}  // namespace nibble::kernels::cuda::moe
