// Reads golden.safetensors files in tests. Independent of formats::safetensors, so that a fault there
// cannot hide; trusts its input, which the repository owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace nibble::testing {

struct StoredTensor {
  std::string dtype;  // the safetensors spelling
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;

  // The elements; throws if T has another width.
  template <class T>
  [[nodiscard]] std::vector<T> values() const {
    std::size_t num_elements = 1;
    for (const std::int64_t d : shape) num_elements *= static_cast<std::size_t>(d);
    if (num_elements * sizeof(T) != bytes.size())
      throw std::runtime_error("element width mismatch for " + dtype);
    std::vector<T> result(num_elements);
    if (!result.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
};

class SafetensorsReader {
 public:
  // Throws std::runtime_error if the file cannot be read.
  explicit SafetensorsReader(const std::filesystem::path& path);

  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws std::out_of_range naming the tensor.
  [[nodiscard]] const StoredTensor& at(const std::string& name) const;
  [[nodiscard]] const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }

 private:
  std::vector<std::byte> file_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace nibble::testing
