// How many launches a decode step makes, counted without weights.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/model_runner.h"

namespace nibble::engine {

struct DecodeNodes {
  std::size_t total = 0;               // 0: steps are not recorded here
  std::vector<std::size_t> per_layer;  // nodes of each layer; the rest is before and after them
};

// Nodes of the recording of a decode step of one sequence. Of `model` and the cache only shapes are used.
// Throws DeviceError, InternalError or std::bad_alloc.
DecodeNodes count_decode_nodes(const models::Model& model, Backend backend, const RunnerLimits& limits);

}  // namespace nibble::engine
