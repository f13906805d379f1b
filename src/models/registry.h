// What the engine calls to get a model: from a checkpoint directory, or of a shape with dummy weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "kernels/device.h"
#include "models/model.h"
#include "models/quant_config.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::models {

struct LoadOptions {
  std::filesystem::path dir;           // checkpoint directory; may be empty with dummy weights
  std::filesystem::path config;        // config.json for dummy weights; empty = dir / config.json
  bool dummy = false;                  // pseudo-random weights, no shards are read
  QuantRequest quant;                  // schemes by layer kind
  std::int32_t num_hidden_layers = 0;  // > 0 shortens the model (dummy weights only)
  DType cache_dtype = DType::f32;      // f32, bf16, f8_e4m3 or f8_e5m2
  // Positions to prepare for, which then is info().max_position_embeddings if config.json allows it;
  // 0 = what config.json says (at most 1 Mi).
  std::int32_t max_model_len = 0;
};

// Reads headers and configuration, checks the whole tensor list, then streams the weights into the
// device's layout. Progress phase "load weights", unit "bytes" (of the checkpoint).
// Errors: bad_input (malformed, missing, misshapen or left-over tensors, NaN weights), unsupported
// (architecture, format or value), out_of_memory, interrupted (progress returned false).
Result<std::unique_ptr<Model>> load_model(const LoadOptions& options, kernels::Device& device,
                                          const ProgressCallback& progress = {});

// Weights of one layer kind in one format.
struct WeightPlanRow {
  std::string kind;    // attn, mlp, experts, other
  std::string format;  // bf16, fp8, mxfp4, ...; f32 for norms and biases
  std::int64_t num_parameters = 0;
  std::uint64_t packed_bytes = 0;  // on the device
  // What their inputs go through; of the first weight, where --exclude makes them differ.
  quant::ActivationFormat activations = quant::ActivationFormat::none;
};

// What loading would give, from headers (dummy: from config.json) alone.
struct ModelPlan {
  std::vector<WeightPlanRow> weights;
  std::optional<kernels::WeightShape> experts;  // gate's shape of the first layer with routed experts
  std::uint64_t weight_bytes = 0;
  std::uint64_t cache_bytes_per_token = 0;  // all layers
  // Shapes without weights: info(), cache_specs() and active_bytes() are real, forward may only be
  // run with kernels::counting_kernels() and a counting arena, to size scratch memory.
  std::unique_ptr<Model> shape;
};
Result<ModelPlan> plan_model(const LoadOptions& options, const kernels::Device& device);

// The model types load_model knows, for messages: "deepseek_v2", ...
std::vector<std::string_view> supported_model_types();

}  // namespace nibble::models
