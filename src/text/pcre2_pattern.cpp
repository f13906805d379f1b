// The general engine behind make_regex_pattern.

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <memory>

#include "core/quote.h"
#include "text/oniguruma.h"
#include "text/pattern.h"
#include "text/utf8.h"

namespace nibble::text {

namespace {

constexpr std::size_t kMaxRegexBytes = 16 << 10;

// Per match: far above what any sane pre-tokenizer needs, reached in milliseconds by a malicious one.
constexpr std::uint32_t kMatchLimit = 1'000'000;
constexpr std::uint32_t kDepthLimit = 100'000;
constexpr std::uint32_t kHeapLimitKib = 64 << 10;

template <auto function>
struct Free {
  template <class T>
  void operator()(T* object) const {
    function(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.empty() ? "" : text.data());
}

std::string message_of(int code) {
  std::array<unsigned char, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

class Pcre2Pattern final : public Pattern {
 public:
  Pcre2Pattern(std::string regex, Code code, MatchContext limits)
      : regex_(std::move(regex)), code_(std::move(code)), limits_(std::move(limits)) {}

  Status find_all(std::string_view text, std::vector<Span>& matches) const override {
    const MatchData data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (!data) return out_of_memory("no memory for a regular expression match");
    std::size_t last_match_end = text.size() + 1;
    for (std::size_t at = 0; at <= text.size();) {
      NIB_TRY(const bool found, match_from(text, at, *data));
      if (!found) break;
      const std::size_t* const offsets = pcre2_get_ovector_pointer(data.get());
      const Span match{.begin = offsets[0], .end = offsets[1]};
      if (match.begin == match.end && match.end == last_match_end) {  // an empty match right after a match
        if (at == text.size()) break;
        next_code_point(text, at);
        continue;
      }
      matches.push_back(match);
      at = last_match_end = match.end;
    }
    return {};
  }

 private:
  Result<bool> match_from(std::string_view text, std::size_t at, pcre2_match_data& data) const {
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code_.get(), bytes_of(text), text.size(), at, options | PCRE2_NO_UTF_CHECK, &data,
                         limits_.get());
    };
    int rc = run(0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);  // the interpreter may use the heap
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc > 0) return true;
    return runtime_error(fmt::format("regular expression {} failed at byte {} of a text of {} bytes: {}",
                                     quote(regex_), at, text.size(), message_of(rc)));
  }

  std::string regex_;
  Code code_;
  MatchContext limits_;
};

Result<Code> compile(std::string_view regex, std::string_view translated) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) return out_of_memory("no memory for a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  std::size_t offset = 0;
  const std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  Code code(pcre2_compile(bytes_of(translated), translated.size(), options, &error, &offset, context.get()));
  if (!code) return bad_input(fmt::format("regular expression {}: {}", quote(regex), message_of(error)));
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where it can't, pcre2_match interprets
  return code;
}

}  // namespace

Result<std::unique_ptr<Pattern>> make_pcre2_pattern(std::string_view regex) {
  if (regex.size() > kMaxRegexBytes) {
    return unsupported(fmt::format("a regular expression of {} bytes, at most {} are supported", regex.size(),
                                   kMaxRegexBytes));
  }
  NIB_TRY(const std::string translated, oniguruma_to_pcre2(regex));
  NIB_TRY(Code code, compile(regex, translated));
  MatchContext limits(pcre2_match_context_create(nullptr));
  if (!limits) return out_of_memory("no memory for a regular expression");
  pcre2_set_match_limit(limits.get(), kMatchLimit);
  pcre2_set_depth_limit(limits.get(), kDepthLimit);
  pcre2_set_heap_limit(limits.get(), kHeapLimitKib);
  return std::unique_ptr<Pattern>(
      std::make_unique<Pcre2Pattern>(std::string(regex), std::move(code), std::move(limits)));
}

}  // namespace nibble::text
