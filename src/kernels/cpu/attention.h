// The attention ops of the CPU backend over any tier.
#pragma once

#include "kernels/args/attention.h"
#include "kernels/cpu/tier.h"
#include "kernels/exec.h"

namespace nibble::kernels::cpu {

void mla_absorbed(const Tier& tier, Exec& exec, const MlaAbsorbedArgs& args);
void mha(const Tier& tier, Exec& exec, const MhaArgs& args);

}  // namespace nibble::kernels::cpu
