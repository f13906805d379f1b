// Arguments of the matrix-product ops. m = tokens, n = output features, k = input features.
// Activations are float32 with unit stride along the last axis; rows may be strided. Where the weight's shape
// names a format for them they have gone through quantize_activation, unless KernelTable::quantizes_inputs
// says that this is the kernel's work.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/weight.h"

namespace nibble::kernels {

enum class Precision : std::uint8_t {
  fast,   // operands may be rounded to bf16 where the tier has bf16 products
  exact,  // float32 operands on every tier (router, logits used for decisions)
};

// y = x * w^T, or y += x * w^T.
struct LinearArgs {
  TensorView x;     // [m, k] f32
  const Weight& w;  // one group, [n, k]
  TensorView y;     // [m, n] f32
  bool accumulate = false;
  Precision precision = Precision::fast;
};

// Two products of one input: y = x * w^T of both.
struct LinearPairArgs {
  TensorView x;          // [m, k] f32
  const Weight& first;   // one group, [n, k]
  TensorView first_y;    // [m, n] f32
  const Weight& second;  // one group, [n', k]
  TensorView second_y;   // [m, n'] f32
};

// y = silu(x * gate^T) * (x * up^T), the first half of a gated MLP.
struct GatedLinearArgs {
  TensorView x;        // [m, k] f32
  const Weight& gate;  // [n, k]
  const Weight& up;    // [n, k]
  TensorView y;        // [m, n] f32
};

// Per head h: y[m, h, :] = w[h] * x[m, h, :] (w group h is [n, k]).
struct HeadLinearArgs {
  TensorView x;     // [m, heads, k] f32, or [m, k] shared by all heads when x.rank == 2
  const Weight& w;  // num_groups = heads
  TensorView y;     // [m, heads, n] f32, or KernelTable::rebuilt
};

// Per head h: y[m, h, :] = w[h]^T * x[m, h, :]; folds W_UK into the query (DeepSeek-V2, eq. 10 ff.).
struct HeadLinearTransposedArgs {
  TensorView x;     // [m, heads, n] f32
  const Weight& w;  // num_groups = heads, each [n, k]
  TensorView y;     // [m, heads, k] f32
};

// y[i, :] = decoded row ids[i] of the table.
struct EmbedArgs {
  const std::int32_t* ids;  // [m]; every id in [0, n)
  const Weight& table;      // [n = vocabulary, k = hidden]
  TensorView y;             // [m, k] f32
};

}  // namespace nibble::kernels
