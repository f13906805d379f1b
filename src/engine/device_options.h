// Names and numbers of a device as users give them, for engines and for modules alike.
#pragma once

#include <string>
#include <string_view>

#include "core/dtype.h"
#include "kernels/device.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

// device: auto, cpu or cuda; an empty isa is NIBBLE_ISA's. bad_input names `threads_field` for a number of
// threads that makes no sense.
Result<kernels::DeviceOptions> parse_device_options(const std::string& device, int num_threads,
                                                    const std::string& isa, std::string_view threads_field);

// auto, f32, bf16, fp8 (= fp8_e4m3), fp8_e5m2; bad_input, naming `field`, for anything else.
Result<DType> parse_cache_dtype(std::string_view name, DeviceKind device, std::string_view field);

}  // namespace nibble::engine
