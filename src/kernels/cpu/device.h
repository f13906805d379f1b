// The CPU device.
#pragma once

#include <memory>

#include "core/cpu_info.h"
#include "kernels/device.h"

namespace nibble::kernels::cpu {

std::unique_ptr<Device> make_cpu_device(CpuIsa isa, int num_threads);

}  // namespace nibble::kernels::cpu
