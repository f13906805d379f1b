// From a format known at run time to a template argument.
#pragma once

#include <type_traits>

#include "kernels/cuda/packed_weight.h"

namespace nibble::kernels::cuda {

// fn(std::integral_constant<Format, ...>) of the format.
template <class Fn>
void dispatch_format(Format format, const Fn& fn) {
  switch (format) {
    case Format::f32: fn(std::integral_constant<Format, Format::f32>{}); return;
    case Format::f16: fn(std::integral_constant<Format, Format::f16>{}); return;
    case Format::bf16: fn(std::integral_constant<Format, Format::bf16>{}); return;
    case Format::fp8: fn(std::integral_constant<Format, Format::fp8>{}); return;
    case Format::mxfp4: fn(std::integral_constant<Format, Format::mxfp4>{}); return;
    case Format::nvfp4: fn(std::integral_constant<Format, Format::nvfp4>{}); return;
    case Format::int8: fn(std::integral_constant<Format, Format::int8>{}); return;
    case Format::int4: fn(std::integral_constant<Format, Format::int4>{}); return;
  }
}

}  // namespace nibble::kernels::cuda
