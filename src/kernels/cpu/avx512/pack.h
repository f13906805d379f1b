// The AVX-512 tier's Tier::pack_panel.
#pragma once

#include "kernels/cpu/pack.h"

namespace nibble::kernels::cpu::avx512 {

std::int64_t pack_panel(StepShuffle shuffle, const PanelSource& source, std::byte* panel);

}  // namespace nibble::kernels::cpu::avx512
