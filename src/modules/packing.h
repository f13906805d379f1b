// From matrices in host memory to a device's packed weights: the number format of a scheme, quantised on the
// way by its plain rule.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/weight.h"
#include "layers/parameter.h"
#include "nibble/modules/weights.h"
#include "nibble/result.h"
#include "quant/scheme.h"

namespace nibble::modules {

// Sets format, grouping and activations of a weight that has no memory yet. bad_input if the scheme cannot
// hold rows of so many inputs; the message begins with `name`.
Status set_scheme(kernels::Weight& weight, const quant::Scheme& scheme, const std::string& name);

// Rows [first_row, first_row + weight.shape.n) of a matrix of `rows_per_group` rows per group of the weight:
// kv_b_proj has W_UK's and W_UV's rows of a head one after the other, experts have a group each.
struct Part {
  const char* name;
  const HostMatrix* matrix;
  kernels::Weight* weight;
  std::int64_t rows_per_group;
  std::int64_t first_row = 0;
};

// bad_input: the matrix is not [groups * rows_per_group, k] or has no or too few values.
Status check_shape(const Part& part);

// Allocates the weights and packs them. Parts of one call share NVFP4's global scale of a group, as gate
// and up must. bad_input: a value that is not finite, named by its part and row.
Status pack(kernels::Device& device, std::span<const Part> parts, const quant::Scheme& scheme);

// A vector of parameter.size values. bad_input if sizes differ or a value is not finite.
Status place(kernels::Device& device, layers::Parameter& parameter, std::span<const float> values,
             const std::string& name);
// What dummy modules have: norms of 1, biases small.
void place_constant(kernels::Device& device, layers::Parameter& parameter, float value);

// out_of_memory if the weights and `more` bytes are over what the device has free: memory of the host that is
// promised and not there would end the process later.
Status check_room(const kernels::Device& device, std::span<kernels::Weight* const> weights,
                  std::uint64_t more);

// Allocates each and fills it with dummy values of its own seed.
Status fill_dummy(kernels::Device& device, std::span<kernels::Weight* const> weights, std::uint64_t seed);

}  // namespace nibble::modules
