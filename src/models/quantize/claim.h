// What quantization_config says about a set of layers: the published method that can express their formats,
// the layers of each format and those that stay as they are.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "formats/hf_config.h"
#include "formats/quantization_config_writer.h"
#include "models/weight_spec.h"

namespace nibble::models {

class LayerFormats {
 public:
  // A matrix and the format it will have.
  void add(const WeightSpec& spec, quant::WeightFormat format);

  // One quantised format takes its own method, several take compressed-tensors' "mixed-precision". The
  // multi-token prediction layers are listed as unquantised where they are.
  // With `gptq`, all quantised layers are GPTQ's.
  [[nodiscard]] formats::QuantizationClaim claim(const formats::HfConfig& source, bool has_mtp,
                                                 const std::optional<formats::GptqClaim>& gptq) const;
  [[nodiscard]] std::vector<quant::WeightFormat> quantized_formats() const;

 private:
  struct Layer {
    std::string module;
    LayerKind kind;
    quant::WeightFormat format;
  };

  // The layers of a format as one pattern per kind where that is true, else one by one.
  [[nodiscard]] std::vector<std::string> names_of(quant::WeightFormat format,
                                                  formats::QuantMethod method) const;
  [[nodiscard]] std::vector<std::string> plain_names(formats::QuantMethod method) const;

  std::vector<Layer> layers_;
};

}  // namespace nibble::models
