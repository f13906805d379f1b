#include <cuda_bf16.h>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/moe/prefill_tokens.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda::moe {
namespace {

constexpr int kThreads = 256;
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

// Where the pieces of one of a token's copies go.
struct Destination {
  std::int64_t begin;       // of the token's first panel
  std::int32_t panel_step;  // bytes between panels
  std::int32_t row;         // of its atom
  std::int64_t scales;      // index of its first scale
  std::int32_t scale_step;
};

// The tile that holds an entry of the sorted list: the last that begins at it or before.
__device__ Tile find_tile(const Route& route, int position) {
  int low = 0;
  int high = *route.num_tiles - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (route.tiles[middle].begin <= position) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return route.tiles[low];
}

__device__ Destination find_destination(const Route& route, int position, int panels) {
  const Tile tile = find_tile(route, position);
  const int token = position - tile.begin;
  return {.begin = piece_offset(tile, panels, 0, token, 0) - token % kAtomTokens * kPieceBytes,
          .panel_step = padded_tokens(tile) / kAtomTokens * kAtomBytes,
          .row = token % kAtomTokens,
          .scales = scale_offset(tile, panels, 0, token),
          .scale_step = padded_tokens(tile)};
}

constexpr int kSlotsAtOnce = 32;

// One token: its pieces are made once and stored for each of its experts.
template <Input I, bool kVectors>
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ PrefillParams params) {
  constexpr int kColumns = I == Input::bf16 ? 8 : 16;  // of a piece
  __shared__ Destination destinations[kSlotsAtOnce];
  __shared__ int count;
  wait_for_earlier_kernels();
  let_next_kernel_start();
  const MoeParams& p = params.p;
  const int token = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int panels = num_panels<I>(p.gate);
  const float* x = p.x + token * p.x_stride;
  for (int first = 0; first < p.topk; first += kSlotsAtOnce) {
    __syncthreads();
    if (thread == 0) count = 0;
    __syncthreads();
    if (thread < min(kSlotsAtOnce, p.topk - first)) {
      const int position = p.route.positions[token * p.topk + first + thread];
      if (position >= 0) destinations[atomicAdd(&count, 1)] = find_destination(p.route, position, panels);
    }
    __syncthreads();
    // Whole warps stay in the loop: the eight lanes of a panel exchange.
    for (int i = thread; i / kWarp * kWarp < panels * kPieces; i += kThreads) {
      const int panel = i / kPieces;
      const int piece = i % kPieces;
      float v[kColumns];
      load_columns<kVectors>(x, i * kColumns, p.gate.k, v);
      uint4 out;
      float scale = 0.0F;
      if constexpr (I == Input::bf16) {
        out = round_piece(v);
      } else {
        out = quantize_piece(v, scale);
      }
      if (panel >= panels) continue;
      for (int j = 0; j < count; ++j) {
        const Destination& to = destinations[j];
        std::byte* at = params.x + to.begin + std::int64_t{panel} * to.panel_step;
        *reinterpret_cast<uint4*>(at + (piece ^ to.row) * kPieceBytes) = out;
        if (I == Input::fp8 && piece == 0)
          params.x_scales[to.scales + std::int64_t{panel} * to.scale_step] = scale;
      }
    }
  }
}

template <Input I>
void launch(const PrefillParams& params, cudaStream_t stream) {
  const MoeParams& p = params.p;
  const bool vectors = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0;
  launch_overlapped(vectors ? gather_kernel<I, true> : gather_kernel<I, false>,
                    dim3(static_cast<unsigned>(p.m)), kThreads, 0, stream, params);
}

}  // namespace

void launch_prefill_gather(const PrefillParams& params, cudaStream_t stream) {
  launch<Input::bf16>(params, stream);
}
void launch_prefill_gather_fp8(const PrefillParams& params, cudaStream_t stream) {
  launch<Input::fp8>(params, stream);
}

}  // namespace nibble::kernels::cuda::moe
