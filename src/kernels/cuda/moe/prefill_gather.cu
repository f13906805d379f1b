#include <cuda_bf16.h>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/moe/prefill_tokens.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kThreads = 256;
constexpr int kPanelsPerBlock = 16;
constexpr int kPieces = kPanelBytes / kPieceBytes;
constexpr unsigned kAll = 0xFFFFFFFFU;

// kCount consecutive columns; 0 past the last.
template <bool kVectors, int kCount>
__device__ __forceinline__ void load_columns(const float* x, int column, int k, float (&v)[kCount]) {
  if (kVectors && column + kCount <= k) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(x + column + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = column + i < k ? x[column + i] : 0.0F;
  }
}

__device__ __forceinline__ uint4 round_piece(const float (&v)[8]) {
  return make_uint4(round_pair(v[0], v[1]), round_pair(v[2], v[3]), round_pair(v[4], v[5]),
                    round_pair(v[6], v[7]));
}

// The eight neighbouring lanes that have a group's pieces agree on its scale.
__device__ __forceinline__ uint4 quantize_piece(const float (&v)[16], float& scale) {
  unsigned largest = 0;  // as bits, of which those of NaN are the largest
#pragma unroll
  for (const float value : v) largest = max(largest, __float_as_uint(value) & 0x7FFFFFFFU);
#pragma unroll
  for (int d = 1; d < kPieces; d *= 2) largest = max(largest, __shfl_xor_sync(kAll, largest, d));
  scale = fp8_scale(__uint_as_float(largest));
  const float inverse = 1.0F / scale;
  std::uint32_t words[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    words[t] = fp8_pair(v[2 * t], v[2 * t + 1], inverse) | fp8_pair(v[2 * t + 8], v[2 * t + 9], inverse)
                                                               << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Tile blockIdx.x, kPanelsPerBlock panels; a thread makes a piece at a time.
template <Input I, bool kVectors>
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ PrefillParams params) {
  constexpr int kColumns = I == Input::bf16 ? 8 : 16;  // of a piece
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const MoeParams& p = params.p;
  if (static_cast<int>(blockIdx.x) >= *p.route.num_tiles) return;
  const Tile tile = p.route.tiles[blockIdx.x];
  const int panels = num_panels<I>(p.gate);
  const int first = static_cast<int>(blockIdx.y) * kPanelsPerBlock;
  const int pieces = (min(panels, first + kPanelsPerBlock) - first) * kPieces;
  // Whole warps stay in the loop: lanes exchange.
  const int total = pieces * tile.count;
  for (int begin = 0; begin < total; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const int token = min(i, total - 1) / pieces;
    const int piece = min(i, total - 1) % pieces;
    const int panel = first + piece / kPieces;
    const float* x = p.x + std::int64_t{p.route.sorted[tile.begin + token] / p.topk} * p.x_stride;
    float v[kColumns];
    load_columns<kVectors>(x, panel * kPieces * kColumns + piece % kPieces * kColumns, p.gate.k, v);
    uint4 out;
    float scale = 0.0F;
    if constexpr (I == Input::bf16) {
      out = round_piece(v);
    } else {
      out = quantize_piece(v, scale);
    }
    if (i >= total) continue;
    *reinterpret_cast<uint4*>(params.x + piece_offset(tile, panels, panel, token, piece % kPieces)) = out;
    if (I == Input::fp8 && piece % kPieces == 0)
      params.x_scales[scale_offset(tile, panels, panel, token)] = scale;
  }
}

template <Input I>
void launch(const PrefillParams& params, cudaStream_t stream) {
  const MoeParams& p = params.p;
  const bool vectors = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0;
  const int panels = I == Input::bf16 ? p.gate.num_blocks : (p.gate.num_blocks + 1) / 2;
  const dim3 grid(static_cast<unsigned>(params.max_tiles),
                  static_cast<unsigned>((panels + kPanelsPerBlock - 1) / kPanelsPerBlock));
  launch_overlapped(vectors ? gather_kernel<I, true> : gather_kernel<I, false>, grid, kThreads, 0, stream,
                    params);
}

}  // namespace

void launch_prefill_gather(const PrefillParams& params, cudaStream_t stream) {
  launch<Input::bf16>(params, stream);
}
void launch_prefill_gather_fp8(const PrefillParams& params, cudaStream_t stream) {
  launch<Input::fp8>(params, stream);
}

}  // namespace nibble::kernels::cuda::moe
