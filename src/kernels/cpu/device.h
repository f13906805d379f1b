// The CPU device.
#pragma once

#include <memory>

#include "core/cpu_info.h"
#include "kernels/device.h"

namespace nibble::kernels::cpu {

// reference_moe: routed experts by the scalar reference.
std::unique_ptr<Device> make_cpu_device(CpuIsa isa, int num_threads, bool reference_moe);

}  // namespace nibble::kernels::cpu
