// Which backends this build has.
#include "kernels/cpu/device.h"
#include "kernels/device.h"

namespace nibble::kernels {

Result<std::unique_ptr<Device>> make_device(const DeviceOptions& options) {
  if (options.kind == DeviceKind::cuda) {
    return unsupported("this build has no CUDA backend; use --device cpu");
  }
  NIB_TRY(const CpuIsa isa, choose_isa(options.isa));
  const int num_threads = options.num_threads > 0 ? options.num_threads : default_num_threads();
  return cpu::make_cpu_device(isa, num_threads);
}

}  // namespace nibble::kernels
