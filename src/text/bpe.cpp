#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace nibble::text {

namespace {

std::uint64_t pair_of(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// The heap's top is the merge with the lowest rank, the leftmost one of these.
bool is_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

MergeTable::MergeTable(std::size_t num_merges) : slots_(std::bit_ceil(2 * num_merges + 1)) {}

// Where `pair` is, or the free slot where it belongs.
std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  std::uint64_t hash = pair * 0x9E3779B97F4A7C15U;
  hash ^= hash >> 32;
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = hash & mask;
  while (slots_[slot].pair != kFree && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::add(TokenId left, TokenId right, Merge merge) {
  const std::uint64_t pair = pair_of(left, right);
  slots_[slot_of(pair)] = {.pair = pair, .merge = merge};
}

MergeTable::Merge MergeTable::find(TokenId left, TokenId right) const {
  if (slots_.empty()) return {};
  return slots_[slot_of(pair_of(left, right))].merge;
}

void Bpe::push_pair(Scratch& scratch, std::int32_t left) const {
  const auto& symbols = scratch.symbols;
  const auto& symbol = symbols[static_cast<std::size_t>(left)];
  const MergeTable::Merge merge = merges_.find(symbol.id, symbols[static_cast<std::size_t>(symbol.next)].id);
  if (merge.merged < 0) return;
  scratch.heap.push_back({.rank = merge.rank, .position = left, .merged = merge.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), is_later);
}

// Applies the best merge until none is left. A candidate is stale if its pair no longer merges to the token
// it was queued for; like Hugging Face's, the check ignores the rank, so that a pair may take its turn with
// the rank of another pair that merged to the same token.
void Bpe::merge_all(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_later);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(top.position)];
    if (!left.alive || left.next < 0) continue;
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    if (merges_.find(left.id, right.id).merged != top.merged) continue;
    left.id = top.merged;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = top.position;
    if (left.previous >= 0) push_pair(scratch, left.previous);
    if (left.next >= 0) push_pair(scratch, top.position);
  }
}

Status Bpe::encode(std::string_view piece, const Vocabulary& vocabulary, Scratch& scratch,
                   std::vector<TokenId>& ids) const {
  if (whole_words_) {
    if (const auto id = vocabulary.find(piece)) return ids.push_back(*id), Status();
  }
  auto& symbols = scratch.symbols;
  symbols.clear();
  scratch.heap.clear();
  const auto num_bytes = static_cast<std::int32_t>(piece.size());
  for (std::int32_t i = 0; i < num_bytes; ++i) {
    const auto byte = static_cast<unsigned char>(piece[static_cast<std::size_t>(i)]);
    const TokenId id = byte_tokens_[byte];
    if (id < 0)
      return bad_input(fmt::format("the tokenizer's vocabulary has no token for byte 0x{:02x}", byte));
    symbols.push_back({.id = id, .previous = i - 1, .next = i + 1 < num_bytes ? i + 1 : -1});
  }
  for (std::int32_t i = 0; i + 1 < num_bytes; ++i) push_pair(scratch, i);
  merge_all(scratch);
  for (const Scratch::Symbol& symbol : symbols) {
    if (symbol.alive) ids.push_back(symbol.id);
  }
  return {};
}

}  // namespace nibble::text
