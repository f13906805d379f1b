// The CUDA backend's kernel table.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::cuda {

KernelTable table();

}  // namespace nibble::kernels::cuda
