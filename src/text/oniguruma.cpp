#include "text/oniguruma.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "core/quote.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace nibble::text {

namespace {

// A set of characters, or one character if `literal` is set.
struct Atom {
  std::optional<char32_t> literal;
  std::string inside;    // of a PCRE2 class
  bool negated = false;  // everything but `inside`; only outside of a class
};

using Predicate = bool (*)(CharClass);

bool is_letter(CharClass c) { return c.category() == CharClass::letter; }
bool is_mark(CharClass c) { return c.category() == CharClass::mark; }
bool is_number(CharClass c) { return c.category() == CharClass::number; }
bool is_punctuation(CharClass c) { return c.category() == CharClass::punctuation; }
bool is_symbol(CharClass c) { return c.category() == CharClass::symbol; }
bool is_decimal(CharClass c) { return c.is_digit(); }

struct Property {
  std::string_view name;
  Predicate predicate;  // null: PCRE2's own
};

constexpr std::array kProperties = {
    Property{"L", is_letter},      Property{"M", is_mark},        Property{"N", is_number},
    Property{"P", is_punctuation}, Property{"S", is_symbol},      Property{"Nd", is_decimal},
    Property{"Lu", nullptr},       Property{"Ll", nullptr},       Property{"Lt", nullptr},
    Property{"Lm", nullptr},       Property{"Lo", nullptr},       Property{"Mn", nullptr},
    Property{"Mc", nullptr},       Property{"Me", nullptr},       Property{"Nl", nullptr},
    Property{"No", nullptr},       Property{"Pc", nullptr},       Property{"Pd", nullptr},
    Property{"Ps", nullptr},       Property{"Pe", nullptr},       Property{"Pi", nullptr},
    Property{"Pf", nullptr},       Property{"Po", nullptr},       Property{"Sm", nullptr},
    Property{"Sc", nullptr},       Property{"Sk", nullptr},       Property{"So", nullptr},
    Property{"Z", nullptr},        Property{"Zs", nullptr},       Property{"Zl", nullptr},
    Property{"Zp", nullptr},       Property{"Han", nullptr},      Property{"Hiragana", nullptr},
    Property{"Katakana", nullptr}, Property{"Hangul", nullptr},   Property{"Latin", nullptr},
    Property{"Greek", nullptr},    Property{"Cyrillic", nullptr}, Property{"Arabic", nullptr},
    Property{"Hebrew", nullptr},   Property{"Thai", nullptr},     Property{"Devanagari", nullptr},
};

// PCRE2's own class and what Unicode has gained since 14, the version of PCRE2 10.42: far smaller than all
// ranges.
std::string with_newer(std::string_view pcre2_class, Predicate predicate) {
  return std::string(pcre2_class) +
         class_ranges([=](CharClass c) { return c.is_after_unicode14() && predicate(c); });
}

// Oniguruma's \w is Rust's but for these: it counts Latin-1's superscripts and fractions, not the joiners.
constexpr std::string_view kWordExtra = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

std::string word_ranges() {
  std::string ranges = class_ranges([](CharClass c) { return c.is_word(); });
  constexpr std::string_view joiners = "\\x{200c}-\\x{200d}";
  ranges.erase(ranges.find(joiners), joiners.size());
  return ranges.append(kWordExtra);
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (at_ < pattern_.size()) NIB_TRY_STATUS(translate_one());
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool starts_with(std::string_view text) const {
    return pattern_.substr(at_).starts_with(text);
  }

  [[nodiscard]] Error refuse(std::string_view what) const {
    return unsupported(
        fmt::format("regular expression {}: {} at byte {} is not supported", quote(pattern_), what, at_));
  }

  Status translate_one() {
    const char c = pattern_[at_];
    if (c == '\\') return translate_escape();
    if (c == '[') return translate_class();
    if (c == '(') return translate_group();
    if (c == '{') return translate_repeat();
    if (c == ']' || c == '}') return refuse("an unescaped closing bracket");
    out_.push_back(c);
    ++at_;
    return {};
  }

  Status translate_group() {
    if (starts_with("(*")) return refuse("\"(*\"");
    static constexpr std::array<std::string_view, 7> kKnown = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (!starts_with("(?")) {
      out_ += "(?:";  // nothing refers to captured groups
      ++at_;
      return {};
    }
    for (const std::string_view opening : kKnown) {
      if (!starts_with(opening)) continue;
      out_ += opening;
      at_ += opening.size();
      return {};
    }
    return refuse("this kind of group");
  }

  // {n}, {n,}, {n,m}.
  Status translate_repeat() {
    const std::size_t close = pattern_.find('}', at_);
    if (close == std::string_view::npos) return refuse("\"{\"");
    const std::string_view inside = pattern_.substr(at_ + 1, close - at_ - 1);
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    const auto allowed = [&](char c) { return is_digit(c) || c == ','; };
    if (inside.empty() || inside.size() > 9 || !is_digit(inside.front()) ||
        !std::all_of(inside.begin(), inside.end(), allowed) ||
        std::count(inside.begin(), inside.end(), ',') > 1) {
      return refuse("\"{\" that is no repeat count");
    }
    out_ += pattern_.substr(at_, close + 1 - at_);
    at_ = close + 1;
    if (starts_with("+"))
      return refuse("\"+\" after a repeat count");  // possessive in PCRE2, not in Oniguruma
    return {};
  }

  Status translate_escape() {
    if (starts_with("\\A") || starts_with("\\z")) {
      out_ += pattern_.substr(at_, 2);
      at_ += 2;
      return {};
    }
    NIB_TRY(const Atom atom, parse_escape(false));
    if (atom.literal) {
      out_ += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(*atom.literal));
    } else {
      out_ += (atom.negated ? "[^" : "[") + atom.inside + "]";
    }
    return {};
  }

  Status translate_class() {
    out_.push_back('[');
    ++at_;
    if (starts_with("^")) {
      out_.push_back('^');
      ++at_;
    }
    if (starts_with("]")) return refuse("an empty class");
    while (!starts_with("]")) NIB_TRY_STATUS(translate_class_item());
    out_.push_back(']');
    ++at_;
    return {};
  }

  // One character, set or range; everything is written as \x{...}, so that nothing in it is special.
  Status translate_class_item() {
    NIB_TRY(const Atom first, parse_class_atom());
    if (!first.literal) {
      out_ += first.inside;
      return {};
    }
    out_ += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(*first.literal));
    if (!starts_with("-") || starts_with("-]")) return {};
    ++at_;
    NIB_TRY(const Atom last, parse_class_atom());
    if (!last.literal || *last.literal < *first.literal) return refuse("a range like this before here");
    out_ += fmt::format("-\\x{{{:x}}}", static_cast<std::uint32_t>(*last.literal));
    return {};
  }

  Result<Atom> parse_class_atom() {
    if (at_ >= pattern_.size()) return refuse("a class without end");
    if (starts_with("[")) return refuse("a class within a class");
    if (starts_with("&&")) return refuse("\"&&\" in a class");
    if (starts_with("\\")) return parse_escape(true);
    return Atom{.literal = next_code_point(pattern_, at_)};
  }

  Result<Atom> parse_escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) return refuse("a lone \"\\\"");
    const char c = pattern_[at_ + 1];
    if (c == 'p' || c == 'P') return parse_property(in_class);
    if (c == 'x' || c == 'u') return parse_hexadecimal();
    if (const auto set = parse_set(c, in_class)) return *set;
    static constexpr std::string_view kControls = "t\tn\nr\rf\fa\ae\x1Bv\v";
    for (std::size_t i = 0; i < kControls.size(); i += 2) {
      if (kControls[i] != c) continue;
      at_ += 2;
      return Atom{.literal = static_cast<char32_t>(kControls[i + 1])};
    }
    const bool is_alphanumeric = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (is_alphanumeric) return refuse(fmt::format("\"\\{}\"", c));
    ++at_;
    return Atom{.literal = next_code_point(pattern_, at_)};
  }

  // \s \d \w \h and their complements.
  std::optional<Atom> parse_set(char c, bool in_class) {
    const auto lower = static_cast<char>(c | 0x20);
    const bool negated = c != lower;
    Atom atom;
    if (lower == 's') {
      atom = set_of([](CharClass k) { return k.is_space(); }, negated, in_class);
    } else if (lower == 'd') {
      atom = set_of(is_decimal, negated, in_class);
    } else if (lower == 'w' && !(negated && in_class)) {
      atom = {.inside = word_ranges(), .negated = negated};
    } else if (c == 'h') {
      atom = {.inside = "0-9a-fA-F"};
    } else {
      return std::nullopt;
    }
    at_ += 2;
    return atom;
  }

  static Atom set_of(Predicate predicate, bool negated, bool in_class) {
    if (negated && in_class) {
      return {.inside = class_ranges([=](CharClass k) { return !predicate(k); })};
    }
    return {.inside = class_ranges(predicate), .negated = negated};
  }

  Result<Atom> parse_property(bool in_class) {
    bool negated = pattern_[at_ + 1] == 'P';
    const std::size_t close = pattern_.find('}', at_);
    if (!pattern_.substr(at_ + 2).starts_with("{") || close == std::string_view::npos)
      return refuse("this property");
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    if (name.starts_with("^")) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const auto property = std::find_if(kProperties.begin(), kProperties.end(),
                                       [&](const Property& candidate) { return candidate.name == name; });
    if (property == kProperties.end()) return refuse(fmt::format("the property {}", quote(name)));
    at_ = close + 1;
    const std::string script = name.size() > 2 ? "sc:" : "";  // without it, PCRE2 means script extensions
    if (property->predicate == nullptr) {
      return Atom{.inside = fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', script, name)};
    }
    if (negated && in_class) return set_of(property->predicate, true, true);
    return Atom{.inside = with_newer(fmt::format("\\p{{{}}}", name), property->predicate),
                .negated = negated};
  }

  // \xH, \xHH (ASCII only: beyond it is a byte in Oniguruma), \x{H...}, \uHHHH.
  Result<Atom> parse_hexadecimal() {
    const bool is_u = pattern_[at_ + 1] == 'u';
    const bool braces = !is_u && pattern_.substr(at_ + 2).starts_with("{");
    const std::size_t max_digits = is_u ? 4 : braces ? 6 : 2;
    std::size_t at = at_ + 2 + (braces ? 1 : 0);
    std::size_t digits = 0;
    char32_t value = 0;
    for (; digits < max_digits && at < pattern_.size(); ++digits, ++at) {
      static constexpr std::string_view kHex = "0123456789abcdef";
      const char c = pattern_[at];
      const std::size_t digit = kHex.find(c >= 'A' && c <= 'F' ? static_cast<char>(c | 0x20) : c);
      if (digit == std::string_view::npos) break;
      value = value << 4 | static_cast<char32_t>(digit);
    }
    const bool closed = !braces || pattern_.substr(at).starts_with("}");
    const bool is_scalar = value < 0x110000 && (value < 0xD800 || value > 0xDFFF);
    if (digits == 0 || (is_u && digits != 4) || !closed || !is_scalar || (!is_u && !braces && value > 0x7F)) {
      return refuse("this hexadecimal escape");
    }
    at_ = at + (braces ? 1 : 0);
    return Atom{.literal = value};
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> oniguruma_to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace nibble::text
