#include "tests/support/safetensors_reader.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace nibble::testing {

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path.string());
  file_.resize(std::filesystem::file_size(path));
  in.read(reinterpret_cast<char*>(file_.data()), static_cast<std::streamsize>(file_.size()));
  std::uint64_t header_bytes = 0;
  if (!in || file_.size() < sizeof(header_bytes)) throw std::runtime_error("cannot read " + path.string());
  std::memcpy(&header_bytes, file_.data(), sizeof(header_bytes));
  const std::span<const std::byte> all(file_);
  const auto header = all.subspan(sizeof(header_bytes), header_bytes);
  const auto data = all.subspan(sizeof(header_bytes) + header_bytes);
  const char* text = reinterpret_cast<const char*>(header.data());
  const nlohmann::json json = nlohmann::json::parse(text, text + header.size());
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry["data_offsets"][0].get<std::size_t>();
    const auto end = entry["data_offsets"][1].get<std::size_t>();
    tensors_[name] = {.dtype = entry["dtype"].get<std::string>(),
                      .shape = entry["shape"].get<std::vector<std::int64_t>>(),
                      .bytes = data.subspan(begin, end - begin)};
  }
}

const StoredTensor& SafetensorsReader::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::out_of_range("no tensor " + name);
  return found->second;
}

}  // namespace nibble::testing
