#include "kernels/cuda/moe/prefill.cuh"
#include "kernels/cuda/moe/prefill_formats.h"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillNvfp4 = {.first = launch_shape<Format::nvfp4, true, 2>,
                                       .second = launch_shape<Format::nvfp4, false, 2>};

}  // namespace nibble::kernels::cuda::moe
