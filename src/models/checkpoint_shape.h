// A checkpoint opened, its model built with shapes only, and the two joined: everything that can be
// known, and found wrong, without reading weights.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "formats/checkpoint.h"
#include "models/binding.h"
#include "models/loadable_model.h"
#include "nibble/result.h"

namespace nibble::models {

struct CheckpointShape {
  formats::Checkpoint checkpoint;
  std::unique_ptr<LoadableModel> model;            // info().notes says what is odd or ignored
  std::unique_ptr<std::vector<WeightSpec>> specs;  // bindings point into it
  BoundCheckpoint bound;
};

// Errors as for load_model, but nothing is allocated on a device.
Result<CheckpointShape> shape_checkpoint(const std::filesystem::path& dir, const ModelOptions& options,
                                         const QuantConfig& quant = {});

// Tensors a model of this shape has at least, from the config alone: a bound to check before a list
// of that length is built.
std::int64_t min_num_tensors(const formats::HfConfig& config);

}  // namespace nibble::models
