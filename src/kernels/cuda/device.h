// The CUDA backend: one Hopper GPU.
#pragma once

#include <memory>

#include "kernels/device.h"

namespace nibble::kernels::cuda {

// The first GPU this process may use (CUDA_VISIBLE_DEVICES). unsupported, by name, if there is none or it
// is no Hopper GPU. reference_moe: routed experts by a plain float32 kernel.
Result<std::unique_ptr<Device>> make_cuda_device(int num_threads, bool reference_moe);

CudaDevices find_devices();

// Throws DeviceError or std::bad_alloc.
GpuLimits measure_gpu();

}  // namespace nibble::kernels::cuda
