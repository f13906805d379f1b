// The tensors a DeepSeek-V2/V3 checkpoint must hold according to its config, for walking whole
// checkpoints in tests without building a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/hf_config.h"
#include "nibble/result.h"

namespace nibble::formats {

class Checkpoint;

struct ExpectedMatrix {
  std::string prefix;
  std::int64_t n;
  std::int64_t k;
};

struct ExpectedVector {
  std::string name;
  std::int64_t size;
};

struct ExpectedTensors {
  std::vector<ExpectedMatrix> matrices;
  std::vector<ExpectedVector> vectors;
};

ExpectedTensors expected_tensors(const HfConfig& config);

// Opens the directory and reads every expected tensor as the loader would: find_matrix, finiteness of
// codes and scales, read_vector. The first error ends it.
Status walk_checkpoint(const std::filesystem::path& dir);

}  // namespace nibble::formats
