#include "kernels/cuda/linear/inputs.h"

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/hopper/barrier.cuh"
#include "kernels/cuda/linear/e4m3_inputs.cuh"
#include "kernels/cuda/linear/tiles.cuh"
#include "kernels/cuda/overlap.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunks = 8;  // of 16 bytes in a token's 128; one thread each
constexpr int kTokens = kThreads / kChunks;
constexpr int kPanelK = kE4m3Group;  // of E4M3

// What a thread makes a chunk of.
struct Place {
  int panel;
  int token;
  int chunk;
};
__device__ __forceinline__ Place place_of_thread() {
  return {.panel = static_cast<int>(blockIdx.x),
          .token = static_cast<int>(blockIdx.y) * kTokens + static_cast<int>(threadIdx.x) / kChunks,
          .chunk = static_cast<int>(threadIdx.x) % kChunks};
}
__device__ __forceinline__ uint4& chunk_at(uint4* panels, const Place& place, int m_pad) {
  return panels[(static_cast<std::int64_t>(place.panel) * m_pad + place.token) * kChunks +
                (place.chunk ^ (place.token % 8))];
}
__device__ __forceinline__ uint4 round_eight(const float* v) {
  return {round_pair(v[0], v[1]), round_pair(v[2], v[3]), round_pair(v[4], v[5]), round_pair(v[6], v[7])};
}

// The activations.
struct Inputs {
  const float* x;
  std::int64_t x_stride;
  int m;
  int k;
  bool quads_aligned;               // rows start at multiples of 16 bytes
  const std::int32_t* permutation;  // of columns, or null
};

// A thread's kCount inputs of a panel, zero past the end of k and of the tokens.
template <int kCount>
__device__ __forceinline__ void load_values(const Inputs& in, const Place& place, float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0.0F;
  if (place.token >= in.m) return;
  const float* row = in.x + place.token * in.x_stride;
  const int column = (place.panel * kChunks + place.chunk) * kCount;
  if (in.quads_aligned && in.permutation == nullptr && column + kCount <= in.k) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 quad = *reinterpret_cast<const float4*>(row + column + i);
      values[i] = quad.x, values[i + 1] = quad.y, values[i + 2] = quad.z, values[i + 3] = quad.w;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int kk = in.permutation != nullptr ? in.permutation[column + i] : column + i;
    if (kk >= 0 && kk < in.k) values[i] = row[kk];
  }
}

__global__ void __launch_bounds__(kThreads)
    round_inputs_kernel(const __grid_constant__ Inputs in, int m_pad, uint4* panels) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const Place place = place_of_thread();
  if (place.token >= m_pad) return;
  static_assert(kChunks * 8 == kBlockK);
  float values[8];
  load_values(in, place, values);
  chunk_at(panels, place, m_pad) = round_eight(values);
}

// Through FP8 first. A block has two panels, a thread two chunks of one of them.
__global__ void __launch_bounds__(kThreads)
    round_e4m3_inputs_kernel(const __grid_constant__ Inputs in, int m_pad, int num_panels, uint4* panels) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const Place place = place_of_thread();
  float values[kPanelK / kChunks];
  load_values(in, place, values);
  round_to_e4m3<kChunks>(values);
  Place to{.panel = place.panel * 2 + place.chunk / 4, .token = place.token, .chunk = place.chunk % 4 * 2};
  if (to.token >= m_pad || to.panel >= num_panels) return;
  chunk_at(panels, to, m_pad) = round_eight(values);
  ++to.chunk;
  chunk_at(panels, to, m_pad) = round_eight(values + 8);
}

__device__ __forceinline__ bool all_of_panel(bool value) {
  const unsigned votes = __ballot_sync(0xFFFFFFFFU, value);
  const unsigned mine = 0xFFU << (threadIdx.x % 32 / kChunks * kChunks);
  return (votes & mine) == mine;
}

using Codes = E4m3Codes<16>;

// Whether these codes times scale are the inputs.
__device__ __forceinline__ bool give(const Codes& codes, const float (&inputs)[16], float scale) {
  float values[16];
  codes.values(scale, values);
  bool same = true;
#pragma unroll
  for (int i = 0; i < 16; ++i) same = same && values[i] == inputs[i];
  return same;
}

__device__ __forceinline__ float quantize(const float (&values)[16], Codes& codes) {
  const float scale = e4m3_scale(largest_magnitude<kChunks>(values));
  float scaled[16];

  const float power = __uint_as_float((__float_as_uint(scale) + 0x7FFFFFU) & 0x7F800000U);
#pragma unroll
  for (int i = 0; i < 16; ++i) scaled[i] = values[i] * (1.0F / power);
  codes.make(scaled);
  if (all_of_panel(give(codes, values, power))) return power;

#pragma unroll
  for (int i = 0; i < 16; ++i) scaled[i] = __fdiv_rn(values[i], scale);
  codes.make(scaled);
  const float above = __uint_as_float(__float_as_uint(scale) + 1U);
  const float below = __uint_as_float(__float_as_uint(scale) - 1U);
  const bool is_scale = all_of_panel(give(codes, values, scale));
  const bool is_above = all_of_panel(give(codes, values, above));
  const bool is_below = all_of_panel(give(codes, values, below));
  return is_scale ? scale : is_above ? above : is_below ? below : scale;
}

// Bytes of sixteen codes in order.
__device__ __forceinline__ uint4 arrange(const Codes& codes) {
  std::uint32_t words[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const std::uint32_t low = codes.pairs[t];
    const std::uint32_t high = codes.pairs[t + 4];
    words[t] = __byte_perm(low, high, 0x5410U);
  }
  return {words[0], words[1], words[2], words[3]};
}

__global__ void __launch_bounds__(kThreads)
    quantize_inputs_kernel(const __grid_constant__ Inputs in, int m_pad, uint4* panels, float* scales) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const Place place = place_of_thread();
  float values[kPanelK / kChunks];
  load_values(in, place, values);
  Codes codes;
  const float scale = quantize(values, codes);
  if (place.token >= m_pad) return;
  chunk_at(panels, place, m_pad) = arrange(codes);
  if (place.chunk == 0) {
    const int in_order = place.token % 8 / 2 * 4 + place.token % 16 / 8 * 2 + place.token % 2;
    scales[static_cast<std::int64_t>(place.panel) * m_pad + place.token / 16 * 16 + in_order] = scale;
  }
}

Inputs inputs_of(const Product& p) {
  return {.x = p.x,
          .x_stride = p.x_stride,
          .m = p.m,
          .k = static_cast<int>(p.w.k),
          .quads_aligned = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0,
          .permutation = p.w.permutation_offset != 0
                             ? reinterpret_cast<const std::int32_t*>(p.w.scales + p.w.permutation_offset)
                             : nullptr};
}

dim3 grid_of(int panels, int m_pad) {
  return {static_cast<unsigned>(panels), static_cast<unsigned>(ceil_div(m_pad, kTokens))};
}

}  // namespace

void launch_round_inputs(const Product& p, int m_pad, uint4* panels, const Launch& launch) {
  if (p.fp8_inputs) {
    launch_overlapped(round_e4m3_inputs_kernel, grid_of(ceil_div(p.w.num_blocks, 2), m_pad), kThreads, 0,
                      launch.stream, inputs_of(p), m_pad, p.w.num_blocks, panels);
  } else {
    launch_overlapped(round_inputs_kernel, grid_of(p.w.num_blocks, m_pad), kThreads, 0, launch.stream,
                      inputs_of(p), m_pad, panels);
  }
}

void launch_quantize_inputs(const Product& p, int m_pad, uint4* panels, float* scales, const Launch& launch) {
  launch_overlapped(quantize_inputs_kernel, grid_of(ceil_div(p.w.num_blocks, 2), m_pad), kThreads, 0,
                    launch.stream, inputs_of(p), m_pad, panels, scales);
}

}  // namespace nibble::kernels::cuda
