// Which backends this build has.
#include "kernels/cpu/device.h"
#include "kernels/device.h"
#ifdef NIBBLE_HAS_CUDA
#include "kernels/cuda/device.h"
#endif

namespace nibble::kernels {

Result<std::unique_ptr<Device>> make_device(const DeviceOptions& options) {
  const int num_threads = options.num_threads > 0 ? options.num_threads : default_num_threads();
  if (options.kind == DeviceKind::cuda) {
#ifdef NIBBLE_HAS_CUDA
    return cuda::make_cuda_device(num_threads, options.reference_moe);
#else
    return unsupported("device cuda: this build has no CUDA backend; use --device cpu");
#endif
  }
  NIB_TRY(const CpuIsa isa, choose_isa(options.isa));
  return cpu::make_cpu_device(isa, num_threads, options.reference_moe);
}

CudaDevices cuda_devices() {
#ifdef NIBBLE_HAS_CUDA
  return cuda::find_devices();
#else
  return {.is_built = false, .names = {}, .status = "this build has no CUDA backend"};
#endif
}

GpuLimits measure_gpu() {
#ifdef NIBBLE_HAS_CUDA
  return cuda::measure_gpu();
#else
  return {};
#endif
}

}  // namespace nibble::kernels
