// QuantizePlan: what becomes of every tensor of a checkpoint and which file it goes to, from headers alone.
// Everything that can be refused is refused here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/quantization_config_writer.h"
#include "formats/safetensors_writer.h"
#include "models/checkpoint_shape.h"
#include "nibble/quantize.h"
#include "nibble/result.h"
#include "quant/encode/encode.h"

namespace nibble::models {

// A tensor, or a matrix with its scales.
struct QuantizeItem {
  enum class Action : std::uint8_t {
    copy,     // the tensor's bytes
    respell,  // the matrix's codes and scales, perhaps under other names
    encode,   // the matrix in another format
    gptq,     // the same, by the inputs it sees in a calibration text
  };
  Action action = Action::copy;
  std::string name;          // of the tensor; of a matrix the module
  quant::MatrixView matrix;  // source; a vector is one row; empty for tensors the model does not use
  std::vector<const formats::TensorInfo*> tensors;  // of the source
  quant::EncodeOptions options;      // of encode, but for NVFP4's global scale; of gptq, for too few inputs
  std::int32_t layer_idx = -1;       // of gptq
  const Binding* partner = nullptr;  // the matrix that must have the same NVFP4 global scale
  std::vector<formats::TensorHeader> outputs;

  [[nodiscard]] std::uint64_t source_bytes() const noexcept;
  [[nodiscard]] std::uint64_t output_bytes() const noexcept;
};

struct QuantizeShard {
  std::string file;  // "model-00001-of-00003.safetensors"
  std::vector<std::size_t> items;
};

struct QuantizePlan {
  CheckpointShape shape;  // items point into it
  formats::QuantizationClaim claim;
  std::vector<QuantizeItem> items;  // in the order of the source's files; with gptq layer after layer
  std::vector<QuantizeShard> shards;
};

// unsupported for formats that are unknown, quantise activations or cannot stand in one published
// configuration, and for layers that the format cannot hold.
Result<QuantizePlan> plan_quantization(const QuantizeOptions& options);

}  // namespace nibble::models
