#include "formats/safetensors_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "core/check.h"

namespace nibble::formats {
namespace {

constexpr std::uint64_t kAlignment = 8;

// Indices in the order of the file.
std::vector<std::size_t> file_order(const std::vector<TensorHeader>& tensors) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    // DType counts in the order of widths.
    if (tensors[a].dtype != tensors[b].dtype) return tensors[a].dtype > tensors[b].dtype;
    return tensors[a].name < tensors[b].name;
  });
  return order;
}

std::array<std::byte, 8> little_endian(std::uint64_t value) {
  std::array<std::byte, 8> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i) & 0xFFU);
  return bytes;
}

// The JSON; fills the offsets from the first tensor byte on.
std::string header_text(const std::vector<TensorHeader>& tensors, std::vector<std::uint64_t>& offsets) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  std::uint64_t offset = 0;
  for (const std::size_t i : file_order(tensors)) {
    const TensorHeader& tensor = tensors[i];
    offsets[i] = offset;
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(tensor.name).dump(), dtype_name(tensor.dtype),
                        fmt::join(tensor.shape, ","), offset, offset + tensor.num_bytes());
    offset += tensor.num_bytes();
  }
  text += '}';
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

std::uint64_t TensorHeader::num_bytes() const noexcept {
  std::uint64_t elements = 1;
  for (const std::int64_t dim : shape) elements *= static_cast<std::uint64_t>(dim);
  return elements * static_cast<std::uint64_t>(dtype_bits(dtype)) / 8;
}

SafetensorsWriter::SafetensorsWriter(OutputFile file, std::vector<TensorHeader> tensors,
                                     std::vector<std::uint64_t> offsets, std::uint64_t file_bytes)
    : file_(std::move(file)),
      tensors_(std::move(tensors)),
      offsets_(std::move(offsets)),
      written_(tensors_.size(), false),
      file_bytes_(file_bytes) {}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path,
                                                    std::vector<TensorHeader> tensors) {
  std::vector<std::uint64_t> offsets(tensors.size());
  const std::string header = header_text(tensors, offsets);
  std::uint64_t file_bytes = kAlignment + header.size();
  for (std::uint64_t& offset : offsets) offset += kAlignment + header.size();
  for (const TensorHeader& tensor : tensors) file_bytes += tensor.num_bytes();
  NIB_TRY(OutputFile file, OutputFile::create(path, file_bytes));
  NIB_TRY_STATUS(file.write(0, little_endian(header.size())));
  NIB_TRY_STATUS(file.write(kAlignment, std::as_bytes(std::span(header.data(), header.size()))));
  return SafetensorsWriter(std::move(file), std::move(tensors), std::move(offsets), file_bytes);
}

Status SafetensorsWriter::write(std::size_t index, std::span<const std::byte> bytes) {
  NIB_CHECK(bytes.size() == tensors_[index].num_bytes(), "{}: {} bytes of {}", tensors_[index].name,
            bytes.size(), tensors_[index].num_bytes());
  NIB_CHECK(!written_[index], "{} is written twice", tensors_[index].name);
  NIB_TRY_STATUS(file_.write(offsets_[index], bytes));
  written_[index] = true;
  return {};
}

Status SafetensorsWriter::finish() {
  const auto missing = std::find(written_.begin(), written_.end(), false);
  NIB_CHECK(missing == written_.end(), "{} is not written",
            tensors_[static_cast<std::size_t>(missing - written_.begin())].name);
  return file_.finish();
}

}  // namespace nibble::formats
