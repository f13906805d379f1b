#include "text/vocabulary.h"

#include <bit>
#include <functional>

#include "text/byte_alphabet.h"

namespace nibble::text {

namespace {
constexpr std::uint8_t kSpecial = 1;
constexpr std::uint8_t kIndexed = 2;
}  // namespace

Vocabulary::Vocabulary(const std::vector<VocabularyEntry>& entries) {
  offsets_.reserve(entries.size() + 1);
  flags_.reserve(entries.size());
  buckets_.assign(std::bit_ceil(2 * entries.size() + 1), TokenId{-1});
  for (const VocabularyEntry& entry : entries) {
    offsets_.push_back(static_cast<std::uint32_t>(bytes_.size()));
    const bool in_alphabet = append_bytes(bytes_, entry.text);
    if (!in_alphabet) bytes_ += entry.text;  // as Hugging Face's ByteLevel decoder does
    flags_.push_back((entry.is_special ? kSpecial : 0) | (entry.in_model && in_alphabet ? kIndexed : 0));
  }
  offsets_.push_back(static_cast<std::uint32_t>(bytes_.size()));
  for (TokenId id = 0; id < size(); ++id) {
    if ((flags_[static_cast<std::size_t>(id)] & kIndexed) != 0) index(id);
  }
}

std::string_view Vocabulary::bytes(TokenId id) const {
  if (id < 0 || id >= size()) return {};
  const auto i = static_cast<std::size_t>(id);
  return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

bool Vocabulary::is_special(TokenId id) const {
  return id >= 0 && id < size() && (flags_[static_cast<std::size_t>(id)] & kSpecial) != 0;
}

void Vocabulary::index(TokenId id) {
  const std::size_t mask = buckets_.size() - 1;
  std::size_t bucket = std::hash<std::string_view>{}(bytes(id)) & mask;
  while (buckets_[bucket] >= 0) bucket = (bucket + 1) & mask;
  buckets_[bucket] = id;
}

std::optional<TokenId> Vocabulary::find(std::string_view text) const {
  if (buckets_.empty()) return std::nullopt;
  const std::size_t mask = buckets_.size() - 1;
  for (std::size_t bucket = std::hash<std::string_view>{}(text)&mask; buckets_[bucket] >= 0;
       bucket = (bucket + 1) & mask) {
    if (bytes(buckets_[bucket]) == text) return buckets_[bucket];
  }
  return std::nullopt;
}

}  // namespace nibble::text
