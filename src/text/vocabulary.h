// Vocabulary: token ids, their bytes, and the way back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/types.h"

namespace nibble::text {

// Ids are below this; with 8 to 16 bytes of tables per id it bounds what a hostile file can make us allocate.
inline constexpr TokenId kMaxTokenIds = 1 << 20;

// A token as tokenizer.json writes it.
struct VocabularyEntry {
  std::string_view text;
  bool in_model = false;  // listed in model.vocab, not only in added_tokens
  bool is_special = false;
};

class Vocabulary {
 public:
  Vocabulary() = default;

  // Entry i is token i; ids that are not used have empty ones.
  explicit Vocabulary(const std::vector<VocabularyEntry>& entries);

  // Largest id plus one.
  [[nodiscard]] TokenId size() const { return static_cast<TokenId>(flags_.size()); }

  // What the token decodes to; empty for ids out of range or unused.
  [[nodiscard]] std::string_view bytes(TokenId id) const;
  [[nodiscard]] bool is_special(TokenId id) const;

  // The token of model.vocab that is written in the byte alphabet and has these bytes.
  [[nodiscard]] std::optional<TokenId> find(std::string_view bytes) const;

 private:
  void index(TokenId id);

  std::string bytes_;
  std::vector<std::uint32_t> offsets_;  // size() + 1
  std::vector<std::uint8_t> flags_;
  std::vector<TokenId> buckets_;  // open addressing by hash of the bytes; -1: free
};

}  // namespace nibble::text
