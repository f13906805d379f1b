// Experts that are stored together: one tensor for all experts of a layer, as fused kernels hold them.
//
//   <layer>.mlp.experts.w13_weight  [experts, 2 * inter, hidden...]: gate rows, then up rows
//   <layer>.mlp.experts.w2_weight   [experts, hidden, inter...]: down
//
// and, in place of "weight", every name that goes with it (w13_weight_scale ...). Each is cut into what other
// checkpoints store, "<layer>.mlp.experts.3.gate_proj.weight" and so on, so that formats are told from names
// and dtypes in one way. Nothing is copied.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "nibble/result.h"

namespace nibble::formats {

// Replaces fused tensors by their parts; the list need not be sorted, and is not afterwards. bad_input for
// shapes that do not have num_experts parts (of two halves), unsupported for tensors that cannot be cut.
Status split_fused_experts(std::span<const std::filesystem::path> files, std::int64_t num_experts,
                           std::vector<TensorInfo>& tensors);

// "<layer>.mlp.experts.w13_" of "<layer>.mlp.experts.w13_weight"; empty if the name is not a fused one.
std::string_view fused_stem(std::string_view fused_name);

}  // namespace nibble::formats
