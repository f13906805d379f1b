// quantization_config of config.json and its older side files: which number formats the checkpoint
// claims. The tensors decide (matrix_source.cpp); the claim is compared with them.
#pragma once

#include "formats/config_fields.h"
#include "formats/hf_config.h"

namespace nibble::formats {

// `fields`: the quantization_config object. unsupported for methods and variants nibble does not run,
// with the list of those it does.
Result<QuantizationConfig> parse_quantization_config(ConfigFields fields);

// `fields`: the top level of ModelOpt's hf_quant_config.json.
Result<QuantizationConfig> parse_hf_quant_config(ConfigFields fields);

// `fields`: the top level of a side file that holds one method's fields: GPTQ's quantize_config.json
// ("gptq"), AWQ's quant_config.json ("awq").
Result<QuantizationConfig> parse_quantization_side_file(std::string_view method, ConfigFields fields);

}  // namespace nibble::formats
