// Binding: joining a model's weight list with a checkpoint's tensors, from headers alone. The whole list
// is checked before any weight is read, so a wrong checkpoint is refused at once and completely.
#pragma once

#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "models/quant_config.h"
#include "models/weight_spec.h"
#include "nibble/result.h"

namespace nibble::models {

struct Binding {
  const WeightSpec* spec = nullptr;
  quant::MatrixView matrix;                         // of a matrix
  std::vector<const formats::TensorInfo*> tensors;  // all it is made of; the first holds the codes
  // The weight takes another format than the matrix: quantise while loading, in groups of this size
  // (Scheme::group_k).
  bool encode = false;
  std::int64_t target_group_k = 0;

  [[nodiscard]] const formats::TensorInfo& main_tensor() const { return *tensors.front(); }
};

struct BoundCheckpoint {
  std::vector<Binding> bindings;  // in the order of the weight list
  std::vector<const formats::TensorInfo*> ignored;
  std::vector<std::string> notes;  // what was ignored and why
};

// Finds every tensor of `specs`, which must outlive the result, and sets the format of every weight: the
// one `quant` asks for, else the one it is stored in.
// bad_input: tensors missing, misshapen or left over (all are counted, up to a dozen named), or a
// format that contradicts config.json. unsupported: formats that cannot be run, or differ among weights
// that are computed together.
Result<BoundCheckpoint> bind_checkpoint(const formats::Checkpoint& checkpoint,
                                        const std::vector<WeightSpec>& specs, const QuantConfig& quant = {});

}  // namespace nibble::models
