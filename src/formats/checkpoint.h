// Checkpoint: a model directory as published: config.json, safetensors shards (memory-mapped), their
// index. Everything is validated when opened; afterwards every span handed out is inside its file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "formats/hf_config.h"
#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::formats {

struct TensorInfo {
  std::string name;
  DType dtype = DType::bf16;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;  // inside the mapping; may be unaligned
  std::size_t file_idx = 0;         // into Checkpoint::files()
  std::string stored_in = {};       // name in the file, if this is a part of a tensor (fused_experts.h)
};

// "name" in quotes, for messages; with the tensor it is a part of.
std::string tensor_label(const TensorInfo& tensor);

class Checkpoint {
 public:
  // bad_input names file, tensor and field; unsupported for architectures and values we do not run.
  static Result<Checkpoint> open(const std::filesystem::path& dir);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  [[nodiscard]] const std::filesystem::path& dir() const;
  [[nodiscard]] const HfConfig& config() const;
  [[nodiscard]] std::span<const std::filesystem::path> files() const;
  [[nodiscard]] std::span<const TensorInfo> tensors() const;  // sorted by name
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  [[nodiscard]] std::span<const std::string> notes() const;  // harmless oddities (stale index, ...)

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A linear layer's weight in whatever format its tensors say, and the names it used.
struct MatrixSource {
  quant::MatrixView matrix;
  std::vector<const TensorInfo*> tensors;  // consumed: weight and scales
};

// Finds `<prefix>.weight` (or the packed spelling of the format) and its scales, under any name in
// use, and checks shapes against [n, k]. Classified by the keys present, then compared with what
// config.json claims. Errors name the tensor, expected and found, and the names tried.
Result<MatrixSource> find_matrix(const Checkpoint& checkpoint, std::string_view prefix, std::int64_t n,
                                 std::int64_t k);

// Reads a plain (f32, f16, bf16) tensor of exactly this shape as float32.
Result<std::vector<float>> read_vector(const Checkpoint& checkpoint, std::string_view name,
                                       std::span<const std::int64_t> shape);

}  // namespace nibble::formats
