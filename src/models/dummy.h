// Dummy weights: deterministic pseudo-random contents directly in the packed layout, so that any shape
// can be run without a checkpoint.
#pragma once

#include <vector>

#include "kernels/device.h"
#include "models/quant_config.h"
#include "models/weight_spec.h"
#include "nibble/result.h"

namespace nibble::models {

// Sets the format of every weight: what `quant` asks for, else `fallback` for projections and bf16 for
// embedding, head and router. bad_input if a matrix's inputs do not divide into the format's groups.
Status set_dummy_formats(const std::vector<WeightSpec>& specs, const QuantConfig& quant,
                         const quant::Scheme& fallback);

// Fills allocated weights; norms become 1, correction biases small and different.
void fill_dummy(const std::vector<WeightSpec>& specs, kernels::Device& device);

}  // namespace nibble::models
