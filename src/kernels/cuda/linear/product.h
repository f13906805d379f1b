// What matrix products are launched with, and the kernels there are. Plain structs: host code and device
// code both include this.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda {

// y[i, h, :] (+)= w[h] * x[i, h, :] for i < m and every group h of w. Strides in floats; the last axes have
// stride 1; rows need only 4-byte alignment.
struct Product {
  PackedWeight w;
  const float* x = nullptr;
  std::int64_t x_stride = 0;       // between tokens
  std::int64_t x_head_stride = 0;  // between groups; 0 = shared
  float* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t y_head_stride = 0;
  int m = 0;
  bool accumulate = false;    // only where a launcher says so
  bool bf16_results = false;  // y points at bf16 numbers; not where results accumulate
  bool fp8_inputs = false;    // x goes through FP8 in groups of 128; what already has stays as it is
};

struct Launch {
  cudaStream_t stream = nullptr;
  int num_sms = 0;
  std::byte* scratch = nullptr;  // as many bytes as the kernel's ..._scratch function says
};

// float32 operands and sums for every format, shape and number of groups; may accumulate.
void launch_exact_product(const Product& p, const Launch& launch);

// y[i, h, :] = w[h]^T * x[i, h, :], here x [m, heads, n] and y [m, heads, k]. bf16 operands.
void launch_transposed_product(const Product& p, const Launch& launch);

// Every group on its own: many small matrices. bf16 operands.
void launch_head_product(const Product& p, const Launch& launch);

// y[i, :] = row ids[i] of the table (group 0), exactly; NaN for ids outside [0, n). ids is device memory.
void launch_embed(const PackedWeight& table, const std::int32_t* ids, int m, float* y, std::int64_t y_stride,
                  const Launch& launch);

// y = silu(gate) * up over m rows of n; gate and up are dense [m, n].
void launch_silu_mul(const float* gate, const float* up, int m, int n, float* y, std::int64_t y_stride,
                     const Launch& launch);

}  // namespace nibble::kernels::cuda
