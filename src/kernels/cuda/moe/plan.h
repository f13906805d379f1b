// Thresholds of the MoE kernels, for people.
#pragma once

#include <vector>

#include "kernels/device.h"

namespace nibble::kernels::cuda {

// Of gate's shape; down is taken to be like it.
std::vector<Device::MoeKernelRow> moe_kernel_rows(const WeightShape& experts);

}  // namespace nibble::kernels::cuda
