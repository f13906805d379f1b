// WeightPacker: rows of a checkpoint's matrix into the device's layout: as they are, from another tool's
// integer layout, or quantised on the way.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/device.h"
#include "models/binding.h"
#include "nibble/result.h"
#include "quant/encode/encode.h"

namespace nibble::models {

class WeightPacker {
 public:
  // `bindings`: the whole list, since matrices that are multiplied together may share a scale.
  WeightPacker(const std::vector<Binding>& bindings, kernels::Device& device, quant::ScaleRule scales);

  // What packing a matrix's rows needs to know of all of it. Not thread-safe, and before pack.
  // bad_input names `name` and the value that no valid checkpoint holds.
  Status prepare(const Binding& binding, const std::string& name);

  // Packs rows [begin, end) of the matrix to wherever they go. begin is a multiple of kRowUnit. Returns
  // whether all weights are finite; after false the rows are not all packed. Any threads, different rows.
  [[nodiscard]] bool pack(const Binding& binding, std::int64_t begin, std::int64_t end);

  // Names the weight that is not finite.
  static Error not_finite(const Binding& binding, const std::string& name);

  // Rows of a task are a multiple of FP8's scale blocks.
  static constexpr std::int64_t kRowUnit = 128;

 private:
  bool pack_stored(const Binding& binding, const RowBlock& block, std::int64_t begin, std::int64_t end);
  bool pack_encoded(const Binding& binding, std::int64_t begin, std::int64_t end);
  [[nodiscard]] quant::EncodeOptions encode_options(const Binding& binding) const;
  float amax_of(const Binding& binding);

  const std::vector<Binding>& bindings_;
  kernels::Device& device_;
  quant::ScaleRule scales_;
  std::unordered_map<const Binding*, float> amax_;  // of the matrix alone
  std::unordered_map<const Binding*, float> global_scale_;
};

}  // namespace nibble::models
