// The matrix-product ops of the CPU backend over any tier.
#pragma once

#include "kernels/args/linear.h"
#include "kernels/cpu/tier.h"
#include "kernels/exec.h"

namespace nibble::kernels::cpu {

void linear(const Tier& tier, Exec& exec, const LinearArgs& args);
void gated_linear(const Tier& tier, Exec& exec, const GatedLinearArgs& args);
void head_linear(const Tier& tier, Exec& exec, const HeadLinearArgs& args);
void head_linear_transposed(const Tier& tier, Exec& exec, const HeadLinearTransposedArgs& args);

// One group of a weight as the constant part of a task.
MatmulTask group_task(const Weight& w, std::int64_t group);

// Panels per task: enough tasks to balance the team, large enough to stream.
std::int64_t panels_per_task(std::int64_t num_panels, std::int64_t num_threads, std::int64_t m);

}  // namespace nibble::kernels::cpu
