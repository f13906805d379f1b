#include "tests/models/editable_checkpoint.h"

#include <cstring>
#include <fstream>

#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::testing {

namespace fs = std::filesystem;

EditableCheckpoint::EditableCheckpoint(const std::string& name) {
  const fs::path source = test_data("golden") / name;
  config = nlohmann::json::parse(std::ifstream(source / "config.json"));
  const SafetensorsReader reader(source / "model.safetensors");
  for (const auto& [tensor_name, stored] : reader.tensors()) {
    tensors[tensor_name] = {
        .dtype = stored.dtype, .shape = stored.shape, .bytes = {stored.bytes.begin(), stored.bytes.end()}};
  }
}

fs::path EditableCheckpoint::write() const {
  std::ofstream(dir_.path() / "config.json") << config.dump();
  nlohmann::json header;
  std::size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::ofstream out(dir_.path() / "model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << text;
  for (const auto& [name, tensor] : tensors) {
    out.write(reinterpret_cast<const char*>(tensor.bytes.data()),
              static_cast<std::streamsize>(tensor.bytes.size()));
  }
  return dir_.path();
}

void EditableCheckpoint::add_f32(const std::string& name, const std::vector<std::int64_t>& shape,
                                 float value) {
  std::size_t count = 1;
  for (const std::int64_t d : shape) count *= static_cast<std::size_t>(d);
  const std::vector<float> values(count, value);
  EditableTensor& tensor = tensors[name];
  tensor = {.dtype = "F32", .shape = shape, .bytes = std::vector<std::byte>(count * sizeof(float))};
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
}

}  // namespace nibble::testing
