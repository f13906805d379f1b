#include "kernels/cuda/moe/prefill.cuh"
#include "kernels/cuda/moe/prefill_formats.h"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kPrefillMxfp4 = {.first = launch_shape<Format::mxfp4, true, 2>,
                                       .second = launch_shape<Format::mxfp4, false, 2>};

}  // namespace nibble::kernels::cuda::moe
