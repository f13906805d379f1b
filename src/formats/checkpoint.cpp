// Opening a model directory.
//
// The shards' headers are the truth; the index only lists the shards, is cross-checked (converters leave
// it stale, which is noted) and decides between two shards that hold a tensor of the same name.
#include "formats/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>

#include "core/quote.h"
#include "formats/fused_experts.h"
#include "formats/mapped_file.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

std::string shown(const fs::path& path) { return printable(path.native(), 1024); }

// What a directory holds, by the names that matter.
struct Listing {
  std::vector<std::string> model_files;  // model*.safetensors, sorted
  bool has_config = false;
  bool has_index = false;
  std::string other_weights;  // a weight file of a kind nibble does not read
};

bool is_model_file(std::string_view name) {
  return name.starts_with("model") && name.ends_with(".safetensors");
}

bool is_other_weight_file(std::string_view name) {
  return name.ends_with(".gguf") || name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
}

Result<Listing> list_directory(const fs::path& dir) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (!fs::exists(status))
    return bad_input(fmt::format("{}: no such directory; expected a model directory", shown(dir)));
  if (!fs::is_directory(status)) {
    return bad_input(
        fmt::format("{}: not a directory; expected a model directory with config.json and "
                    "model.safetensors",
                    shown(dir)));
  }
  Listing listing;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (name == "config.json") listing.has_config = true;
    if (name == kIndexFile) listing.has_index = true;
    if (is_model_file(name)) listing.model_files.push_back(name);
    if (is_other_weight_file(name)) listing.other_weights = std::max(listing.other_weights, name);
  }
  if (error) return runtime_error(fmt::format("{}: cannot list: {}", shown(dir), error.message()));
  std::sort(listing.model_files.begin(), listing.model_files.end());
  return listing;
}

Status check_listing(const Listing& listing, const fs::path& dir) {
  const std::string found = listing.other_weights.empty() ? std::string()
                                                          : fmt::format(" ({} is not a format nibble reads)",
                                                                        quote(listing.other_weights));
  if (!listing.has_config) {
    return bad_input(fmt::format("{}: no config.json; expected a model directory as published on the hub{}",
                                 shown(dir), found));
  }
  if (listing.model_files.empty() && !listing.has_index) {
    return bad_input(fmt::format("{}: no weights; expected {} or {} with its shards{}", shown(dir),
                                 kSingleFile, kIndexFile, found));
  }
  return {};
}

// "model-00002-of-00003.safetensors" -> {2, 3}.
struct ShardNumber {
  std::uint64_t number;
  std::uint64_t count;
};
std::optional<ShardNumber> shard_number(std::string_view name) {
  const std::size_t of = name.rfind("-of-");
  if (of == std::string_view::npos || !name.starts_with("model-")) return std::nullopt;
  const auto digits = [](std::string_view text) -> std::optional<std::uint64_t> {
    if (text.empty() || text.size() > 9) return std::nullopt;
    std::uint64_t value = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') return std::nullopt;
      value = value * 10 + static_cast<std::uint64_t>(c - '0');
    }
    return value;
  };
  const std::string_view before = name.substr(6, of - 6);
  const std::string_view after =
      name.substr(of + 4, name.size() - of - 4 - std::string_view(".safetensors").size());
  const auto number = digits(before);
  const auto count = digits(after);
  if (!number || !count) return std::nullopt;
  return ShardNumber{*number, *count};
}

// Without an index: shards numbered "-of-N" must all be there.
Status check_numbering(const std::vector<std::string>& files, const fs::path& dir) {
  for (const std::string& name : files) {
    const std::optional<ShardNumber> shard = shard_number(name);
    if (!shard) continue;
    const auto same_set = std::count_if(files.begin(), files.end(), [&](const std::string& other) {
      const auto number = shard_number(other);
      return number && number->count == shard->count && number->number >= 1 && number->number <= shard->count;
    });
    if (static_cast<std::uint64_t>(same_set) == shard->count) continue;
    return bad_input(
        fmt::format("{}: {} says there are {} shards, found {}; download the missing ones (and {})",
                    shown(dir), quote(name), shard->count, same_set, kIndexFile));
  }
  return {};
}

Status check_shards_present(const ShardIndex& index, const fs::path& dir) {
  std::uint64_t present_bytes = 0;
  std::vector<std::string> missing;
  for (const std::string& shard : index.shards) {
    std::error_code error;
    const std::uint64_t bytes = fs::file_size(dir / shard, error);
    if (error) {
      missing.push_back(shard);
    } else {
      present_bytes += bytes;
    }
  }
  if (missing.empty()) return {};
  const std::string& first = missing.front();
  const auto tensors = std::count_if(index.placement.begin(), index.placement.end(),
                                     [&](const auto& entry) { return index.shards[entry.second] == first; });
  const std::string total =
      index.total_size ? fmt::format("{}", *index.total_size) : std::string("an unstated number of");
  return bad_input(fmt::format(
      "{}: missing; {} lists it with {} tensors ({} of {} shards missing; {} bytes present, "
      "the index says {} bytes of tensors); download it",
      shown(dir / first), kIndexFile, tensors, missing.size(), index.shards.size(), present_bytes, total));
}

}  // namespace

std::string tensor_label(const TensorInfo& tensor) {
  if (tensor.stored_in.empty()) return quote(tensor.name);
  return fmt::format("{} (part of {})", quote(tensor.name), quote(tensor.stored_in));
}

struct Checkpoint::Impl {
  fs::path dir;
  HfConfig config;
  std::vector<fs::path> files;
  std::vector<MappedFile> mappings;  // one per file
  std::vector<TensorInfo> tensors;
  std::vector<std::string> notes;

  Status open_shard(const std::string& name);
  Status settle_duplicates(const std::optional<ShardIndex>& index);
  Status check_against_index(const ShardIndex& index);
  Status split_experts();
  [[nodiscard]] std::string file_name(const TensorInfo& tensor) const {
    return files[tensor.file_idx].filename().native();
  }
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
};

Status Checkpoint::Impl::open_shard(const std::string& name) {
  const fs::path path = dir / name;
  NIB_TRY(MappedFile file, MappedFile::open(path));
  NIB_TRY(SafetensorsLayout layout, parse_safetensors(file.bytes(), shown(path)));
  const std::span<const std::byte> data = file.bytes().subspan(layout.data_begin);
  if (tensors.size() + layout.tensors.size() > kMaxTensors) {
    return bad_input(fmt::format("{}: more than {} tensors in all shards", shown(path), kMaxTensors));
  }
  for (SafetensorsEntry& entry : layout.tensors) {
    tensors.push_back({.name = std::move(entry.name),
                       .dtype = entry.dtype,
                       .shape = std::move(entry.shape),
                       .data = data.subspan(entry.begin, entry.end - entry.begin),
                       .file_idx = files.size()});
  }
  files.push_back(path);
  mappings.push_back(std::move(file));
  return {};
}

// Sorts the tensors by name and keeps one of each: of several, the one the index points to.
Status Checkpoint::Impl::settle_duplicates(const std::optional<ShardIndex>& index) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  std::vector<TensorInfo> unique;
  unique.reserve(tensors.size());
  for (auto it = tensors.begin(); it != tensors.end();) {
    const auto end = std::find_if(it, tensors.end(), [&](const TensorInfo& t) { return t.name != it->name; });
    auto chosen = it;
    if (end - it > 1) {
      const std::optional<std::size_t> shard = index ? index->shard_of(it->name) : std::nullopt;
      chosen = std::find_if(
          it, end, [&](const TensorInfo& t) { return shard && file_name(t) == index->shards[*shard]; });
      if (chosen == end) {
        return bad_input(
            fmt::format("{}: tensor {} is in two files, {} and {}, and no index says which one counts",
                        shown(dir), quote(it->name), quote(file_name(*it)), quote(file_name(*(it + 1)))));
      }
      notes.push_back(fmt::format("tensor {} is in {} files; {} is used, as the index says", quote(it->name),
                                  end - it, quote(file_name(*chosen))));
    }
    unique.push_back(std::move(*chosen));
    it = end;
  }
  tensors = std::move(unique);
  return {};
}

Status Checkpoint::Impl::check_against_index(const ShardIndex& index) {
  for (const auto& [name, shard] : index.placement) {
    const TensorInfo* tensor = find(name);
    if (tensor != nullptr && file_name(*tensor) == index.shards[shard]) continue;
    const std::string found =
        tensor == nullptr ? "no shard has it" : fmt::format("it is in {}", quote(file_name(*tensor)));
    return bad_input(fmt::format("{}: weight_map: tensor {} is listed in {}, but {}", shown(dir / kIndexFile),
                                 quote(name), quote(index.shards[shard]), found));
  }
  const std::size_t unlisted = tensors.size() - index.placement.size();
  if (unlisted > 0) {
    const auto first = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const TensorInfo& tensor) { return !index.shard_of(tensor.name); });
    notes.push_back(fmt::format("{} is stale: {} tensors of the shards are not in it (the first is {})",
                                kIndexFile, unlisted, quote(first->name)));
  }
  return {};
}

// After everything that compares names with the files'.
Status Checkpoint::Impl::split_experts() {
  const auto by_name = [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; };
  const auto fused = std::count_if(tensors.begin(), tensors.end(),
                                   [](const TensorInfo& t) { return !fused_stem(t.name).empty(); });
  if (fused == 0) return {};
  const std::int64_t num_experts = config.n_routed_experts;
  if (static_cast<std::int64_t>(tensors.size()) + 2 * fused * num_experts >
      static_cast<std::int64_t>(kMaxTensors)) {
    return bad_input(fmt::format("{}: {} fused tensors of {} experts are more than {} tensors", shown(dir),
                                 fused, num_experts, kMaxTensors));
  }
  NIB_TRY_STATUS(split_fused_experts(files, num_experts, tensors));
  std::sort(tensors.begin(), tensors.end(), by_name);
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice == tensors.end()) return {};
  return bad_input(fmt::format("{}: tensor {} is there beside {}; expected one of the two", shown(dir),
                               tensor_label(*twice), tensor_label(*(twice + 1))));
}

const TensorInfo* Checkpoint::Impl::find(std::string_view name) const {
  const auto it = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return it == tensors.end() || it->name != name ? nullptr : &*it;
}

namespace {

// The files to open, and the index if there is one.
struct ShardList {
  std::vector<std::string> names;
  std::optional<ShardIndex> index;
};

Result<ShardList> choose_shards(const Listing& listing, const fs::path& dir) {
  ShardList list;
  if (!listing.has_index) {
    NIB_TRY_STATUS(check_numbering(listing.model_files, dir));
    list.names = listing.model_files;
    return list;
  }
  NIB_TRY(const std::string text, read_small_file(dir / kIndexFile, kMaxIndexBytes));
  NIB_TRY(ShardIndex index, parse_shard_index(text, shown(dir / kIndexFile)));
  NIB_TRY_STATUS(check_shards_present(index, dir));
  list.names = index.shards;
  list.index = std::move(index);
  return list;
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const fs::path& dir) {
  NIB_TRY(const Listing listing, list_directory(dir));
  NIB_TRY_STATUS(check_listing(listing, dir));
  auto impl = std::make_unique<Impl>();
  impl->dir = dir;
  NIB_TRY(impl->config, load_hf_config(dir / "config.json"));
  NIB_TRY(const ShardList shards, choose_shards(listing, dir));
  for (const std::string& name : shards.names) NIB_TRY_STATUS(impl->open_shard(name));
  NIB_TRY_STATUS(impl->settle_duplicates(shards.index));
  if (shards.index) NIB_TRY_STATUS(impl->check_against_index(*shards.index));
  NIB_TRY_STATUS(impl->split_experts());
  for (const std::string& name : listing.model_files) {
    if (std::binary_search(shards.names.begin(), shards.names.end(), name)) continue;
    impl->notes.push_back(fmt::format("{} is not in {} and is ignored", quote(name), kIndexFile));
  }
  return Checkpoint(std::move(impl));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const fs::path& Checkpoint::dir() const { return impl_->dir; }
const HfConfig& Checkpoint::config() const { return impl_->config; }
std::span<const fs::path> Checkpoint::files() const { return impl_->files; }
std::span<const TensorInfo> Checkpoint::tensors() const { return impl_->tensors; }
std::span<const std::string> Checkpoint::notes() const { return impl_->notes; }
const TensorInfo* Checkpoint::find(std::string_view name) const { return impl_->find(name); }

}  // namespace nibble::formats
