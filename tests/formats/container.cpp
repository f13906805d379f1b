#include "tests/formats/container.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>

namespace nibble::formats {

std::vector<std::byte> container(std::string_view header, std::size_t data_bytes) {
  std::vector<std::byte> file(8 + header.size() + data_bytes);
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xFF);
  std::memcpy(file.data() + 8, header.data(), header.size());
  return file;
}

std::string float_bytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

void TestDirectory::write_tensors(const std::string& name, const std::vector<TestTensor>& tensors) const {
  std::string header;
  std::string data;
  for (const TestTensor& t : tensors) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.empty() ? "" : ",", t.name, t.dtype, fmt::join(t.shape, ","), data.size(),
                          data.size() + t.bytes.size());
    data += t.bytes;
  }
  const std::vector<std::byte> file = container("{" + header + "}", 0);
  write(name, std::string(reinterpret_cast<const char*>(file.data()), file.size()) + data);
}

std::string small_config(std::string_view extra) {
  return fmt::format(
      R"({{"model_type": "deepseek_v3", "vocab_size": 16, "hidden_size": 64, "intermediate_size": 8,
    "num_hidden_layers": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "num_attention_heads": 1,
    "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4{}}})",
      extra);
}

}  // namespace nibble::formats
