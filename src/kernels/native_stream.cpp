#include "kernels/native_stream.h"

#ifdef NIBBLE_HAS_CUDA
#include "kernels/cuda/exec.h"
#endif

namespace nibble::kernels {

void* native_stream(Exec& exec) noexcept {
#ifdef NIBBLE_HAS_CUDA
  if (auto* cuda = dynamic_cast<cuda::CudaExec*>(&exec)) return cuda->stream();
#else
  static_cast<void>(exec);
#endif
  return nullptr;
}

}  // namespace nibble::kernels
