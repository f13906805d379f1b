// The CPU backend's kernel table.
#pragma once

#include "core/cpu_info.h"
#include "kernels/kernel_table.h"

namespace nibble::kernels::cpu {

// The reference rows, overlaid with those the tier has.
KernelTable table(CpuIsa isa);

}  // namespace nibble::kernels::cpu
