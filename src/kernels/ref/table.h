// The reference kernels: plain loops in float32, on any machine. They are the oracle of the faster
// tiers, the CPU backend's fallback, and what NIBBLE_ISA=scalar runs.
//
// Sums run in one fixed order whatever the batch and the number of threads, so results of a row do
// not depend on the other rows.
#pragma once

#include "kernels/kernel_table.h"

namespace nibble::kernels::ref {

KernelTable kernels();

}  // namespace nibble::kernels::ref
