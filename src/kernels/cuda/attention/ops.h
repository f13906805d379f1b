// Rows of the CUDA table: attention.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::cuda {

void mla_absorbed(Exec& exec, const MlaAbsorbedArgs& args);
void mha(Exec& exec, const MhaArgs& args);

}  // namespace nibble::kernels::cuda
