// Builds safetensors files and checkpoint directories in memory and on disk, for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/test_directory.h"

namespace nibble::formats {

// A safetensors file with this header text and `data_bytes` of zeros.
std::vector<std::byte> container(std::string_view header, std::size_t data_bytes);

// A tensor to write: bytes are taken as they are.
struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
std::string float_bytes(const std::vector<float>& values);

class TestDirectory : public nibble::testing::TestDirectory {
 public:
  void write_tensors(const std::string& name, const std::vector<TestTensor>& tensors) const;
};

// A config.json of a small V3 model, with `extra` (",\"key\": value") put before the closing brace.
std::string small_config(std::string_view extra = "");

}  // namespace nibble::formats
