#include "formats/fused_experts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "core/quote.h"

namespace nibble::formats {
namespace {

constexpr std::string_view kExperts = ".mlp.experts.";
constexpr std::array<std::string_view, 2> kStems = {"w13_", "w2_"};

// What follows "w13_" and "w2_". The words of GPTQ and AWQ are not among them: their rows lie side by side.
constexpr std::array<std::string_view, 8> kSuffixes = {
    "weight",         "weight_packed",       "weight_scale", "weight_scale_inv",
    "weight_scale_2", "weight_global_scale", "input_scale",  "input_global_scale"};

class Splitter {
 public:
  Splitter(std::span<const std::filesystem::path> files, std::int64_t num_experts,
           std::vector<TensorInfo>& out)
      : files_(files), num_experts_(num_experts), out_(out) {}

  Status split(const TensorInfo& tensor, std::string_view stem) {
    const std::string_view suffix = std::string_view(tensor.name).substr(stem.size());
    if (std::find(kSuffixes.begin(), kSuffixes.end(), suffix) == kSuffixes.end()) {
      return unsupported(
          text(tensor, fmt::format("experts stored together may have {}; this is something else",
                                   fmt::join(kSuffixes, ", "))));
    }
    if (tensor.shape.empty() || tensor.shape.front() != num_experts_) {
      return bad_input(text(tensor, fmt::format("shape [{}]; expected the {} experts of config.json "
                                                "(n_routed_experts) as its first dimension",
                                                fmt::join(tensor.shape, ", "), num_experts_)));
    }
    const std::string_view layer = stem.substr(0, stem.find(kExperts) + kExperts.size());
    if (stem.ends_with(kStems[1])) {
      add(tensor, layer, "down_proj", suffix, 0, 1);
      return {};
    }
    // One value for gate and up alike, or a half for each.
    const bool shared = tensor.shape.size() == 1 || tensor.shape[1] == 1;
    if (!shared && tensor.shape[1] % 2 != 0) {
      return bad_input(text(tensor, fmt::format("shape [{}]; expected an even second dimension: the rows of "
                                                "gate_proj, then as many of up_proj",
                                                fmt::join(tensor.shape, ", "))));
    }
    add(tensor, layer, "gate_proj", suffix, 0, shared ? 1 : 2);
    add(tensor, layer, "up_proj", suffix, shared ? 0 : 1, shared ? 1 : 2);
    return {};
  }

 private:
  [[nodiscard]] std::string text(const TensorInfo& tensor, std::string_view what) const {
    return fmt::format("{}: tensor {}: {}", printable(files_[tensor.file_idx].native(), 1024),
                       quote(tensor.name), what);
  }

  // Part `part` of `parts` of every expert's share.
  void add(const TensorInfo& tensor, std::string_view layer, std::string_view projection,
           std::string_view suffix, std::size_t part, std::size_t parts) {
    const std::size_t bytes = tensor.data.size() / static_cast<std::size_t>(num_experts_) / parts;
    std::vector<std::int64_t> shape(tensor.shape.begin() + 1, tensor.shape.end());
    if (parts > 1) shape.front() /= static_cast<std::int64_t>(parts);
    for (std::int64_t e = 0; e < num_experts_; ++e) {
      const std::size_t begin = (static_cast<std::size_t>(e) * parts + part) * bytes;
      out_.push_back({.name = fmt::format("{}{}.{}.{}", layer, e, projection, suffix),
                      .dtype = tensor.dtype,
                      .shape = shape,
                      .data = tensor.data.subspan(begin, bytes),
                      .file_idx = tensor.file_idx,
                      .stored_in = tensor.name});
    }
  }

  std::span<const std::filesystem::path> files_;
  std::int64_t num_experts_;
  std::vector<TensorInfo>& out_;
};

}  // namespace

std::string_view fused_stem(std::string_view fused_name) {
  const std::size_t at = fused_name.find(kExperts);
  if (at == std::string_view::npos) return {};
  const std::size_t begin = at + kExperts.size();
  for (const std::string_view stem : kStems) {
    if (fused_name.substr(begin).starts_with(stem)) return fused_name.substr(0, begin + stem.size());
  }
  return {};
}

Status split_fused_experts(std::span<const std::filesystem::path> files, std::int64_t num_experts,
                           std::vector<TensorInfo>& tensors) {
  const auto first = std::stable_partition(tensors.begin(), tensors.end(), [](const TensorInfo& tensor) {
    return fused_stem(tensor.name).empty();
  });
  const std::vector<TensorInfo> fused(std::make_move_iterator(first), std::make_move_iterator(tensors.end()));
  tensors.erase(first, tensors.end());
  Splitter splitter(files, num_experts, tensors);
  for (const TensorInfo& tensor : fused) NIB_TRY_STATUS(splitter.split(tensor, fused_stem(tensor.name)));
  return {};
}

}  // namespace nibble::formats
