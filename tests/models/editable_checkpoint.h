// A copy of a golden checkpoint whose tensors and config can be changed and written to a temporary
// directory: how tests make broken and unusual checkpoints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/test_directory.h"

namespace nibble::testing {

struct EditableTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

class EditableCheckpoint {
 public:
  // Reads tests/data/golden/<name> (a single-file checkpoint). Throws if it cannot.
  explicit EditableCheckpoint(const std::string& name);

  // Writes config.json and model.safetensors; returns the directory, removed with this object.
  std::filesystem::path write() const;

  EditableTensor& tensor(const std::string& name) { return tensors.at(name); }
  void add_f32(const std::string& name, const std::vector<std::int64_t>& shape, float value);

  std::map<std::string, EditableTensor> tensors;
  nlohmann::json config;

 private:
  TestDirectory dir_;
};

}  // namespace nibble::testing
