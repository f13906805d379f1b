// Dummy weights: deterministic pseudo-random contents directly in the packed layout, so that any shape
// can be run without a checkpoint.
#pragma once

#include <string_view>
#include <vector>

#include "formats/hf_config.h"
#include "kernels/device.h"
#include "models/weight_spec.h"
#include "nibble/result.h"

namespace nibble::models {

// Format of each kind's matrices; embedding, head and router are bf16, as published.
struct QuantFormatChoice {
  quant::WeightFormat attn = quant::WeightFormat::bf16;
  quant::WeightFormat mlp = quant::WeightFormat::bf16;
  quant::WeightFormat experts = quant::WeightFormat::bf16;
};

// `name`: bf16, f16, f32, fp8, mxfp4, nvfp4 for all three kinds, or auto: what config.json says.
Result<QuantFormatChoice> dummy_formats(std::string_view name, const formats::HfConfig& config);

// Sets the format of every weight. bad_input if a matrix's inputs do not divide into the format's groups.
Status set_dummy_formats(const std::vector<WeightSpec>& specs, const QuantFormatChoice& choice);

// Fills allocated weights; norms become 1, correction biases small and different.
void fill_dummy(const std::vector<WeightSpec>& specs, kernels::Device& device);

}  // namespace nibble::models
