// quantization_config of compressed-tensors (llm-compressor): a top-level format and config_groups of
// {targets, weights, input_activations}.
#pragma once

#include <cstdint>

#include "formats/config_fields.h"
#include "formats/hf_config.h"

namespace nibble::formats {

void parse_compressed_tensors(ConfigFields& fields, QuantizationConfig& out);

// The weights of every config_groups entry, if there are any, must be groups of `group_size` four-bit
// floats.
void check_float_groups(ConfigFields& fields, std::int64_t group_size);

}  // namespace nibble::formats
