// Router logits of few tokens, as partial sums over slices of k that the routing kernel adds up.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda {

inline constexpr int kMaxGateSlices = 8;
// More tokens keep the machine busy without slices.
inline constexpr int kMaxSlicedTokens = 64;

struct GateProduct {
  PackedWeight gate;  // bf16 or f32, one group, no permutation
  const float* x;     // [m, k], rows x_stride floats apart, 8-byte aligned
  std::int64_t x_stride;
  int m;
  int num_slices;   // at most kMaxGateSlices
  float* partials;  // [num_slices][m][n]
};

// True for what launch_gate_product takes.
bool gate_product_supports(const PackedWeight& gate, const float* x, std::int64_t x_stride, std::int64_t m);

// As many slices as keep num_sms busy.
int gate_product_slices(const PackedWeight& gate, int m, int num_sms);

// partials[s][i][e] = sum over slice s of x[i, k] gate[e, k], float32 operands and sums.
void launch_gate_product(const GateProduct& product, cudaStream_t stream);

}  // namespace nibble::kernels::cuda
