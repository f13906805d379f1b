// Byte-pair encoding of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "nibble/types.h"
#include "text/vocabulary.h"

namespace nibble::text {

// Merge rules: (left, right) -> rank and merged token.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank = 0;
    TokenId merged = -1;  // -1: these two don't merge
  };

  MergeTable() = default;
  explicit MergeTable(std::size_t num_merges);

  // A later rule for the same pair replaces an earlier one, as in Hugging Face's loader. Precondition: at
  // most num_merges calls.
  void add(TokenId left, TokenId right, Merge merge);
  [[nodiscard]] Merge find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    std::uint64_t pair = kFree;
    Merge merge;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  [[nodiscard]] std::size_t slot_of(std::uint64_t pair) const;

  std::vector<Slot> slots_;  // open addressing, at most half full
};

// Immutable; encode() may run in several threads, each with its own Scratch.
class Bpe {
 public:
  // Work memory, kept between pieces.
  struct Scratch {
    struct Symbol {
      TokenId id = -1;
      std::int32_t previous = -1;
      std::int32_t next = -1;  // -1: none
      bool alive = true;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position;
      TokenId merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  Bpe() = default;

  // byte_tokens: the token of each single byte, -1 for none. whole_words: a piece that is a token is not
  // taken apart (tokenizer.json's ignore_merges).
  Bpe(const std::array<TokenId, 256>& byte_tokens, MergeTable merges, bool whole_words)
      : byte_tokens_(byte_tokens), merges_(std::move(merges)), whole_words_(whole_words) {}

  // Appends the tokens of `piece`, which must be shorter than 2 GiB. O(n log n). bad_input if a byte has no
  // token.
  Status encode(std::string_view piece, const Vocabulary& vocabulary, Scratch& scratch,
                std::vector<TokenId>& ids) const;

 private:
  void push_pair(Scratch& scratch, std::int32_t left) const;
  void merge_all(Scratch& scratch) const;

  std::array<TokenId, 256> byte_tokens_{};
  MergeTable merges_;
  bool whole_words_ = false;
};

}  // namespace nibble::text
