// The AVX2 tier's Tier::pack_panel.
#pragma once

#include "kernels/cpu/pack.h"

namespace nibble::kernels::cpu::avx2 {

std::int64_t pack_panel(StepShuffle shuffle, const PanelSource& source, std::byte* panel);

}  // namespace nibble::kernels::cpu::avx2
