#include "kernels/cuda/moe/prefill.cuh"
#include "kernels/cuda/moe/prefill_formats.h"

namespace nibble::kernels::cuda::moe {

const PrefillProducts kMiddleMxfp4 = {.first = launch_shape<Format::mxfp4, true, 4>,
                                      .second = launch_shape<Format::mxfp4, false, 4>};

}  // namespace nibble::kernels::cuda::moe
