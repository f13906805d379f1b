// What an interrupted `quantize` needs to go on: which shards are finished, of which source, by which
// options. A small file in the destination, removed at the end.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/quantize/plan.h"
#include "nibble/quantize.h"
#include "nibble/result.h"

namespace nibble::models {

inline constexpr const char* kStateFile = "quantize_state.json";

struct FinishedShard {
  std::string file;
  std::uint64_t bytes = 0;
  std::vector<QuantizedTensor> tensors;
};

class RunState {
 public:
  // The state a run of this plan begins with: nothing finished.
  RunState(const QuantizeOptions& options, const QuantizePlan& plan);

  // Takes over what the file in the destination says is finished, provided that the shards are there.
  // bad_input if it belongs to other options or another source, or is not a state file.
  Status resume();

  [[nodiscard]] const FinishedShard* find(const std::string& file) const;
  // Notes a finished shard and writes the file.
  Status add(FinishedShard shard);

 private:
  [[nodiscard]] std::filesystem::path path() const { return destination_ / kStateFile; }

  std::filesystem::path destination_;
  std::string options_;  // JSON
  std::string source_;   // digest of names, sizes and times of the files, and of config.json
  std::vector<FinishedShard> shards_;
};

// JSON objects of report and state; one line each. The options are those that decide what the tensors are.
std::string options_json(const QuantizeOptions& options);
std::string tensor_json(const QuantizedTensor& tensor);

}  // namespace nibble::models
