#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"
#include "text/utf8.h"

namespace nibble::text {

namespace {

// Start of the code point that ends at `end`.
std::size_t code_point_before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

CharClass class_at(std::string_view text, std::size_t at) { return char_class(next_code_point(text, at)); }

bool is_word_around(std::string_view text, Span span) {
  return (span.begin > 0 && class_at(text, code_point_before(text, span.begin)).is_word()) ||
         (span.end < text.size() && class_at(text, span.end).is_word());
}

std::size_t skip_space_before(std::string_view text, std::size_t end, std::size_t limit) {
  while (end > limit) {
    const std::size_t at = code_point_before(text, end);
    if (!class_at(text, at).is_space()) break;
    end = at;
  }
  return end;
}

std::size_t skip_space_after(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!char_class(next_code_point(text, next)).is_space()) break;
    at = next;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (AddedToken& token : tokens) {
    Pass& pass = token.normalized ? normalized_ : exact_;
    pass.first_bytes.set(static_cast<unsigned char>(token.content.front()));
    pass.tokens.push_back(std::move(token));
  }
}

// Narrows the sorted tokens down to those that start with the text's next bytes, byte by byte.
const AddedToken* AddedTokens::Pass::longest_at(std::string_view text, std::size_t at) const {
  const AddedToken* longest = nullptr;
  auto first = tokens.begin();
  auto last = tokens.end();
  for (std::size_t depth = 0; first != last; ++depth) {
    if (first->content.size() == depth) {
      longest = &*first;
      ++first;
    }
    if (at + depth == text.size()) break;
    const auto byte_of = [&](const AddedToken& token) {
      return static_cast<unsigned char>(token.content[depth]);
    };
    const auto byte = static_cast<unsigned char>(text[at + depth]);
    first = std::partition_point(first, last, [&](const AddedToken& token) { return byte_of(token) < byte; });
    last = std::partition_point(first, last, [&](const AddedToken& token) { return byte_of(token) == byte; });
  }
  return longest;
}

// `offset` is where `text` lies in the whole text.
void AddedTokens::Pass::split(std::string_view text, std::size_t offset,
                              std::vector<Segment>& segments) const {
  std::size_t done = 0;
  const auto add = [&](std::size_t begin, std::size_t end, TokenId id) {
    segments.push_back({.span = {offset + begin, offset + end}, .id = id});
  };
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* const token =
        first_bytes[static_cast<unsigned char>(text[at])] ? longest_at(text, at) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    Span match{.begin = at, .end = at + token->content.size()};
    at = match.end;
    if (token->single_word && is_word_around(text, match)) continue;
    if (token->lstrip) match.begin = std::max(skip_space_before(text, match.begin, done), done);
    if (token->rstrip) match.end = skip_space_after(text, match.end);
    if (done < match.begin) add(done, match.begin, -1);
    add(match.begin, match.end, token->id);
    done = match.end;
  }
  if (done < text.size()) add(done, text.size(), -1);
}

void AddedTokens::split(std::string_view text, std::vector<Segment>& segments) const {
  std::vector<Segment> exact;
  exact_.split(text, 0, exact);
  segments.clear();
  for (const Segment& segment : exact) {
    if (segment.id >= 0) {
      segments.push_back(segment);
    } else {
      normalized_.split(text.substr(segment.span.begin, segment.span.end - segment.span.begin),
                        segment.span.begin, segments);
    }
  }
}

std::optional<TokenId> AddedTokens::find(std::string_view content) const {
  for (const Pass* pass : {&exact_, &normalized_}) {
    const auto token =
        std::lower_bound(pass->tokens.begin(), pass->tokens.end(), content,
                         [](const AddedToken& a, std::string_view b) { return a.content < b; });
    if (token != pass->tokens.end() && token->content == content) return token->id;
  }
  return std::nullopt;
}

}  // namespace nibble::text
