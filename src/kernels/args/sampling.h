// Arguments of sampling.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/args/sample_row.h"

namespace nibble::kernels {

struct SampleArgs {
  TensorView logits;          // [m, vocabulary] f32, rows may be strided; penalties may change them in place
  const SampleRow* rows;      // [m]
  const TokenCount* history;  // of all rows that have penalties, each id once a row
  std::int32_t* ids;          // [m] out: the tokens, or kNotFinite
};

}  // namespace nibble::kernels
