// quantization_config as other tools read it: the inverse of quantization_config.h for what nibble writes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/matrix_spelling.h"
#include "nibble/result.h"

namespace nibble::formats {

// The linear layers of one format. Names are exact module names, or patterns in the convention of the
// method: "re:..." for compressed-tensors and GPTQ, globs for ModelOpt.
struct QuantizedGroup {
  quant::WeightFormat format = quant::WeightFormat::bf16;
  std::vector<std::string> targets;
};

// What a GPTQ configuration says of all its layers.
struct GptqClaim {
  int bits = 4;
  std::int64_t group_size = 128;  // -1 = one scale per row
  bool zero_points = false;
  bool act_order = false;
  double damp_percent = 0.01;
};

struct QuantizationClaim {
  QuantMethod method = QuantMethod::none;
  std::vector<QuantizedGroup> groups;  // one per format; none with QuantMethod::none
  std::vector<std::string> ignore;     // what stays unquantised
  GptqClaim gptq;                      // with QuantMethod::gptq
};

// The text of config.json with the claim in place of whatever quantization_config there was; everything
// else keeps its value and order. bad_input, prefixed by `where`, unless it is one JSON object.
Result<std::string> replace_quantization_config(std::string_view config_json, std::string_view where,
                                                const QuantizationClaim& claim);

// The text of ModelOpt's hf_quant_config.json.
std::string hf_quant_config_text(const QuantizationClaim& claim);

}  // namespace nibble::formats
