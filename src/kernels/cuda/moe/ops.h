// The mixture-of-experts rows of the CUDA kernel table; semantics in kernels/args/moe.h.
#pragma once

#include "kernels/args/moe.h"
#include "kernels/exec.h"

namespace nibble::kernels::cuda {

void topk_gate(Exec& exec, const TopkGateArgs& args);
void fused_moe(Exec& exec, const FusedMoeArgs& args);

}  // namespace nibble::kernels::cuda
