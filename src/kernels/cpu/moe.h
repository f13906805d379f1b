// The mixture-of-experts op of the CPU backend over any tier.
#pragma once

#include "kernels/args/moe.h"
#include "kernels/cpu/tier.h"
#include "kernels/exec.h"

namespace nibble::kernels::cpu {

void fused_moe(const Tier& tier, Exec& exec, const FusedMoeArgs& args);

}  // namespace nibble::kernels::cpu
