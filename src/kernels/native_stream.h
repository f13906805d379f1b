// The stream of a backend for those who have work of their own to order with it.
#pragma once

#include "kernels/exec.h"

namespace nibble::kernels {

// A cudaStream_t; null where there are no streams.
void* native_stream(Exec& exec) noexcept;

}  // namespace nibble::kernels
