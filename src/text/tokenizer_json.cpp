#include "text/tokenizer_json.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <array>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/quote.h"
#include "text/byte_alphabet.h"
#include "text/pattern.h"

namespace nibble::text {

namespace {

namespace dom = simdjson::dom;

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxFields = 256;  // of the objects with fixed keys
constexpr std::size_t kMaxMerges = std::size_t{1} << 21;
constexpr std::size_t kMaxAddedTokens = std::size_t{1} << 16;
constexpr std::size_t kMaxSplitSteps = 64;
constexpr std::string_view kGpt2Regex =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

std::string describe(dom::element value) {
  switch (value.type()) {
    case dom::element_type::ARRAY: return "an array";
    case dom::element_type::OBJECT: return "an object";
    case dom::element_type::INT64: return fmt::format("{}", std::int64_t{value});
    case dom::element_type::UINT64: return fmt::format("{}", std::uint64_t{value});
    case dom::element_type::DOUBLE: return fmt::format("{}", double{value});
    case dom::element_type::STRING: return quote(std::string_view{value}, 60);
    case dom::element_type::BOOL: return bool{value} ? "true" : "false";
    case dom::element_type::NULL_VALUE: return "null";
  }
  return "an unknown value";
}

Error expected(std::string_view path, std::string_view what, dom::element value) {
  return bad_input(fmt::format("{}: expected {}, found {}", path, what, describe(value)));
}

// An object with known keys. Its errors name the path of the field.
class Fields {
 public:
  static Result<Fields> of(dom::element value, std::string path) {
    dom::object object;
    if (value.get(object) != simdjson::SUCCESS) return expected(path, "an object", value);
    Fields fields;
    fields.path_ = std::move(path);
    for (const dom::key_value_pair field : object) {
      if (fields.has(field.key)) {
        return bad_input(fmt::format("{}: duplicate key", fields.path_of(printable(field.key, 60))));
      }
      if (fields.values_.size() == kMaxFields) {
        return bad_input(fmt::format("{}: more than {} keys", fields.path_, kMaxFields));
      }
      fields.values_.emplace_back(field.key, field.value);
    }
    return fields;
  }

  [[nodiscard]] std::string path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  }

  // Nothing if the field is missing or null.
  [[nodiscard]] std::optional<dom::element> find(std::string_view key) const {
    for (const auto& [name, value] : values_) {
      if (name == key && !value.is_null()) return value;
    }
    return std::nullopt;
  }

  [[nodiscard]] Result<dom::element> require(std::string_view key) const {
    if (const auto value = find(key)) return *value;
    return bad_input(fmt::format("{}: missing{}", path_of(key), has(key) ? " (null)" : ""));
  }

  [[nodiscard]] Result<Fields> object(std::string_view key) const {
    NIB_TRY(const dom::element value, require(key));
    return of(value, path_of(key));
  }

  [[nodiscard]] Result<std::string_view> string(std::string_view key) const {
    NIB_TRY(const dom::element value, require(key));
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) return expected(path_of(key), "a string", value);
    return text;
  }

  [[nodiscard]] Result<dom::array> array(std::string_view key) const {
    NIB_TRY(const dom::element value, require(key));
    dom::array items;
    if (value.get(items) != simdjson::SUCCESS) return expected(path_of(key), "an array", value);
    return items;
  }

  [[nodiscard]] Result<bool> flag(std::string_view key, bool missing) const {
    const auto value = find(key);
    if (!value) return missing;
    bool flag = false;
    if (value->get(flag) != simdjson::SUCCESS) return expected(path_of(key), "true or false", *value);
    return flag;
  }

  // unsupported if the field is there and is none of the neutral values null, false, 0, "".
  [[nodiscard]] Status neutral(std::string_view key) const {
    const auto value = find(key);
    if (!value) return {};
    bool flag = false;
    double number = 0;
    std::string_view text;
    if ((value->get(flag) == simdjson::SUCCESS && !flag) ||
        (value->get(number) == simdjson::SUCCESS && number == 0) ||
        (value->get(text) == simdjson::SUCCESS && text.empty())) {
      return {};
    }
    return unsupported(fmt::format("{}: {} is not supported", path_of(key), describe(*value)));
  }

 private:
  [[nodiscard]] bool has(std::string_view key) const {
    for (const auto& [name, value] : values_) {
      if (name == key) return true;
    }
    return false;
  }

  std::string path_;
  std::vector<std::pair<std::string_view, dom::element>> values_;
};

std::optional<TokenId> token_id_of(dom::element value) {
  std::int64_t id = 0;
  if (value.get(id) != simdjson::SUCCESS || id < 0 || id >= kMaxTokenIds) return std::nullopt;
  return static_cast<TokenId>(id);
}

Error not_an_id(std::string_view path, dom::element value) {
  return expected(path, fmt::format("a token id from 0 to {}", kMaxTokenIds - 1), value);
}

// ---- pre_tokenizer ----

Result<SplitBehavior> parse_behavior(const Fields& fields) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {{
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous},
  }};
  NIB_TRY(const std::string_view name, fields.string("behavior"));
  for (const auto& [known, behavior] : kNames) {
    if (known == name) return behavior;
  }
  return unsupported(fmt::format("{}: {} is not supported", fields.path_of("behavior"), quote(name, 60)));
}

Result<std::unique_ptr<Pattern>> parse_pattern(const Fields& split) {
  NIB_TRY(const Fields pattern, split.object("pattern"));
  if (pattern.find("String")) {
    NIB_TRY(const std::string_view literal, pattern.string("String"));
    if (literal.empty()) return bad_input(fmt::format("{}: empty", pattern.path_of("String")));
    return make_literal_pattern(std::string(literal));
  }
  NIB_TRY(const std::string_view regex, pattern.string("Regex"));
  auto made = make_regex_pattern(regex);
  if (!made.ok()) return std::move(made).error().with_context(pattern.path_of("Regex"));
  return made;
}

// Collects the steps before ByteLevel, which comes last: it turns the pieces into bytes.
class PreTokenizerParser {
 public:
  Status parse(dom::element value, const std::string& path) {
    NIB_TRY(const Fields fields, Fields::of(value, path));
    NIB_TRY(const std::string_view type, fields.string("type"));
    if (type == "Sequence") return parse_sequence(fields);
    if (saw_byte_level_) return unsupported(fmt::format("{}: a step after ByteLevel is not supported", path));
    if (steps_.size() == kMaxSplitSteps)
      return bad_input(fmt::format("{}: more than {} steps", path, kMaxSplitSteps));
    if (type == "Split") return parse_split(fields);
    if (type == "Digits") return parse_digits(fields);
    if (type == "ByteLevel") return parse_byte_level(fields);
    return unsupported(fmt::format("{}: {} is not supported (Sequence, Split, Digits and ByteLevel are)",
                                   fields.path_of("type"), quote(type, 60)));
  }

  [[nodiscard]] bool saw_byte_level() const { return saw_byte_level_; }
  PreTokenizer take() { return PreTokenizer(std::move(steps_)); }

 private:
  Status parse_sequence(const Fields& fields) {
    NIB_TRY(const dom::array parts, fields.array("pretokenizers"));
    std::size_t i = 0;
    for (const dom::element part : parts) {
      NIB_TRY_STATUS(parse(part, fmt::format("{}[{}]", fields.path_of("pretokenizers"), i)));
      ++i;
    }
    return {};
  }

  Status parse_split(const Fields& fields) {
    SplitStep step;
    NIB_TRY(step.pattern, parse_pattern(fields));
    NIB_TRY(step.behavior, parse_behavior(fields));
    NIB_TRY(step.invert, fields.flag("invert", false));
    steps_.push_back(std::move(step));
    return {};
  }

  Status parse_digits(const Fields& fields) {
    NIB_TRY(const bool individual, fields.flag("individual_digits", false));
    steps_.push_back({.pattern = make_digits_pattern(individual)});
    return {};
  }

  Status parse_byte_level(const Fields& fields) {
    NIB_TRY(const bool add_prefix_space, fields.flag("add_prefix_space", true));
    if (add_prefix_space)
      return unsupported(fmt::format("{}: true is not supported", fields.path_of("add_prefix_space")));
    NIB_TRY(const bool use_regex, fields.flag("use_regex", true));
    if (use_regex) {
      NIB_TRY(auto pattern, make_regex_pattern(kGpt2Regex));
      steps_.push_back({.pattern = std::move(pattern)});
    }
    saw_byte_level_ = true;
    return {};
  }

  std::vector<SplitStep> steps_;
  bool saw_byte_level_ = false;
};

Result<PreTokenizer> parse_pre_tokenizer(const Fields& root) {
  NIB_TRY(const dom::element value, root.require("pre_tokenizer"));
  PreTokenizerParser parser;
  NIB_TRY_STATUS(parser.parse(value, root.path_of("pre_tokenizer")));
  if (!parser.saw_byte_level()) {
    return unsupported("pre_tokenizer: no ByteLevel in it; only byte-level vocabularies are supported");
  }
  return parser.take();
}

// ---- the parts that must be there but do little ----

// A component that is null, of one of the `allowed` types, or a Sequence (in `list_key`) of such.
Status check_component(const Fields& parent, std::string_view key, std::string_view list_key,
                       std::initializer_list<std::string_view> allowed) {
  if (!parent.find(key)) return {};
  NIB_TRY(const Fields fields, parent.object(key));
  NIB_TRY(const std::string_view type, fields.string("type"));
  for (const std::string_view name : allowed) {
    if (type == name) return {};
  }
  if (type != "Sequence") {
    return unsupported(fmt::format("{}: {} is not supported", fields.path_of("type"), quote(type, 60)));
  }
  NIB_TRY(const dom::array parts, fields.array(list_key));
  for (const dom::element part : parts) {
    NIB_TRY(const Fields inner, Fields::of(part, fields.path_of(list_key) + "[]"));
    NIB_TRY(const std::string_view inner_type, inner.string("type"));
    bool known = false;
    for (const std::string_view name : allowed) known = known || inner_type == name;
    if (!known)
      return unsupported(
          fmt::format("{}: {} is not supported", inner.path_of("type"), quote(inner_type, 60)));
  }
  return {};
}

Status check_surroundings(const Fields& root) {
  if (root.find("version")) {
    NIB_TRY(const std::string_view version, root.string("version"));
    if (version != "1.0")
      return unsupported(fmt::format("version: {}, only \"1.0\" is supported", quote(version, 60)));
  }
  NIB_TRY_STATUS(root.neutral("truncation"));
  NIB_TRY_STATUS(root.neutral("padding"));
  NIB_TRY_STATUS(check_component(root, "normalizer", "normalizers", {}));
  // Only used to add special tokens, which Tokenizer::encode does itself.
  NIB_TRY_STATUS(check_component(root, "post_processor", "processors", {"ByteLevel", "TemplateProcessing"}));
  NIB_TRY_STATUS(root.object("decoder"));
  return check_component(root, "decoder", "decoders", {"ByteLevel"});
}

// ---- model ----

class ModelParser {
 public:
  explicit ModelParser(Fields model) : model_(std::move(model)) {}

  Status check_kind() const {
    NIB_TRY(const std::string_view type, model_.string("type"));
    if (type != "BPE")
      return unsupported(fmt::format("model.type: {}, only \"BPE\" is supported", quote(type, 60)));
    for (const std::string_view key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      NIB_TRY_STATUS(model_.neutral(key));
    }
    return {};
  }

  Status parse_vocabulary() {
    NIB_TRY(const dom::element value, model_.require("vocab"));
    dom::object vocabulary;
    if (value.get(vocabulary) != simdjson::SUCCESS) return expected("model.vocab", "an object", value);
    ids_.reserve(vocabulary.size());
    for (const dom::key_value_pair field : vocabulary) {
      const auto path = [&] { return fmt::format("model.vocab[{}]", quote(field.key, 60)); };
      const auto id = token_id_of(field.value);
      if (!id) return not_an_id(path(), field.value);
      if (!ids_.emplace(field.key, *id).second) return bad_input(fmt::format("{}: duplicate key", path()));
      if (VocabularyEntry& entry = entry_of(*id); std::exchange(entry.in_model, true)) {
        return bad_input(fmt::format("{}: id {} is also that of {}", path(), *id, quote(entry.text, 60)));
      } else {
        entry.text = field.key;
      }
    }
    return ids_.empty() ? Status(bad_input("model.vocab: empty")) : Status();
  }

  Status parse_added_token(dom::element value, std::size_t i, std::vector<AddedToken>& tokens) {
    NIB_TRY(const Fields fields, Fields::of(value, fmt::format("added_tokens[{}]", i)));
    AddedToken token;
    NIB_TRY(const std::string_view content, fields.string("content"));
    if (content.empty()) return bad_input(fmt::format("{}: empty", fields.path_of("content")));
    if (content.size() > kMaxAddedTokenBytes) {
      return unsupported(fmt::format("{}: {} bytes, at most {} are supported", fields.path_of("content"),
                                     content.size(), kMaxAddedTokenBytes));
    }
    token.content = content;
    NIB_TRY(const dom::element id_value, fields.require("id"));
    const auto id = token_id_of(id_value);
    if (!id) return not_an_id(fields.path_of("id"), id_value);
    token.id = *id;
    NIB_TRY(token.special, fields.flag("special", false));
    NIB_TRY(token.normalized, fields.flag("normalized", !token.special));
    NIB_TRY(token.single_word, fields.flag("single_word", false));
    NIB_TRY(token.lstrip, fields.flag("lstrip", false));
    NIB_TRY(token.rstrip, fields.flag("rstrip", false));
    NIB_TRY_STATUS(register_added(token, content, fields));
    tokens.push_back(std::move(token));
    return {};
  }

  Result<Bpe> parse_bpe() const {
    NIB_TRY(MergeTable merges, parse_merges());
    std::array<TokenId, 256> byte_tokens;
    byte_tokens.fill(-1);
    for (const auto& [text, id] : ids_) {
      std::string byte;
      if (text.size() <= 2 && append_bytes(byte, text) && byte.size() == 1) {
        byte_tokens[static_cast<unsigned char>(byte.front())] = id;
      }
    }
    NIB_TRY_STATUS(check_fallbacks(byte_tokens));
    NIB_TRY(const bool whole_words, model_.flag("ignore_merges", false));
    return Bpe(byte_tokens, std::move(merges), whole_words);
  }

  [[nodiscard]] const std::vector<VocabularyEntry>& entries() const { return entries_; }

 private:
  VocabularyEntry& entry_of(TokenId id) {
    const auto i = static_cast<std::size_t>(id);
    if (i >= entries_.size()) entries_.resize(i + 1);
    return entries_[i];
  }

  // An added token is one of the vocabulary under the same id, or has an id of its own.
  Status register_added(const AddedToken& token, std::string_view content, const Fields& fields) {
    if (!added_.insert(content).second) {
      return bad_input(fmt::format("{}: {} is there twice", fields.path_of("content"), quote(content, 60)));
    }
    VocabularyEntry& entry = entry_of(token.id);
    if (const auto known = ids_.find(content); known != ids_.end() && known->second != token.id) {
      return bad_input(fmt::format("{}: {}, but model.vocab has {} with id {}", fields.path_of("id"),
                                   token.id, quote(content, 60), known->second));
    }
    if (entry.text.data() != nullptr && entry.text != content) {
      return bad_input(
          fmt::format("{}: {} is also the id of {}", fields.path_of("id"), token.id, quote(entry.text, 60)));
    }
    entry.text = content;
    entry.is_special = token.special;
    return {};
  }

  // Unknown-token and byte fallbacks are for characters without a token: with all bytes there, they never
  // happen.
  Status check_fallbacks(const std::array<TokenId, 256>& byte_tokens) const {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const bool in_utf8 = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
      if (!in_utf8 || byte_tokens[byte] >= 0) continue;
      for (const std::string_view key : {"unk_token", "byte_fallback", "fuse_unk"}) {
        auto status = model_.neutral(key);
        if (!status.ok()) {
          return std::move(status).error().with_context(
              fmt::format("vocabulary without byte 0x{:02x}", byte));
        }
      }
      break;
    }
    return {};
  }

  Result<MergeTable> parse_merges() const {
    NIB_TRY(const dom::array merges, model_.array("merges"));
    std::size_t num_merges = 0;
    for ([[maybe_unused]] const dom::element merge : merges) ++num_merges;  // size() saturates
    if (num_merges > kMaxMerges) {
      return bad_input(
          fmt::format("model.merges: {} entries, at most {} are supported", num_merges, kMaxMerges));
    }
    MergeTable table(num_merges);
    std::uint32_t rank = 0;
    std::string merged;
    for (const dom::element merge : merges) {
      if (is_version_line(merge)) continue;
      auto status = add_merge(merge, rank, merged, table);
      if (!status.ok()) return std::move(status).error().with_context(fmt::format("model.merges[{}]", rank));
      ++rank;
    }
    return table;
  }

  static bool is_version_line(dom::element merge) {
    std::string_view text;
    return merge.get(text) == simdjson::SUCCESS && text.starts_with("#version");
  }

  Status add_merge(dom::element merge, std::uint32_t rank, std::string& merged, MergeTable& table) const {
    std::string_view left;
    std::string_view right;
    if (!read_merge(merge, left, right))
      return expected("merge", "\"left right\" or [\"left\", \"right\"]", merge);
    merged.assign(left).append(right);
    std::array<TokenId, 3> ids{};
    const std::array<std::string_view, 3> texts = {left, right, merged};
    for (std::size_t i = 0; i < 3; ++i) {
      const auto found = ids_.find(texts[i]);
      if (found == ids_.end()) {
        return bad_input(fmt::format("{} + {}: token {} is not in model.vocab", quote(left, 60),
                                     quote(right, 60), quote(texts[i], 60)));
      }
      ids[i] = found->second;
    }
    table.add(ids[0], ids[1], {.rank = rank, .merged = ids[2]});
    return {};
  }

  static bool read_merge(dom::element merge, std::string_view& left, std::string_view& right) {
    std::string_view text;
    if (merge.get(text) == simdjson::SUCCESS) {
      const std::size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
        return false;
      left = text.substr(0, space);
      right = text.substr(space + 1);
      return true;
    }
    dom::array pair;
    return merge.get(pair) == simdjson::SUCCESS && pair.size() == 2 &&
           pair.at(0).get(left) == simdjson::SUCCESS && pair.at(1).get(right) == simdjson::SUCCESS;
  }

  Fields model_;
  std::unordered_map<std::string_view, TokenId> ids_;  // of model.vocab; views into the document
  std::unordered_set<std::string_view> added_;
  std::vector<VocabularyEntry> entries_;
};

Result<std::vector<AddedToken>> parse_added_tokens(const Fields& root, ModelParser& model) {
  std::vector<AddedToken> tokens;
  if (!root.find("added_tokens")) return tokens;
  NIB_TRY(const dom::array items, root.array("added_tokens"));
  for (const dom::element item : items) {
    if (tokens.size() == kMaxAddedTokens) {
      return bad_input(fmt::format("added_tokens: more than {} entries", kMaxAddedTokens));
    }
    NIB_TRY_STATUS(model.parse_added_token(item, tokens.size(), tokens));
  }
  return tokens;
}

Result<TokenizerParts> parse_root(dom::element document) {
  NIB_TRY(const Fields root, Fields::of(document, ""));
  NIB_TRY_STATUS(check_surroundings(root));
  TokenizerParts parts;
  NIB_TRY(parts.pre_tokenizer, parse_pre_tokenizer(root));
  NIB_TRY(Fields model_fields, root.object("model"));
  ModelParser model(std::move(model_fields));
  NIB_TRY_STATUS(model.check_kind());
  NIB_TRY_STATUS(model.parse_vocabulary());
  NIB_TRY(parts.bpe, model.parse_bpe());
  NIB_TRY(std::vector<AddedToken> added, parse_added_tokens(root, model));
  parts.added = AddedTokens(std::move(added));
  parts.vocabulary = Vocabulary(model.entries());
  return parts;
}

Error parse_error(simdjson::error_code error) {
  if (error == simdjson::MEMALLOC) return out_of_memory("no memory to parse the JSON");
  if (error == simdjson::DEPTH_ERROR)
    return bad_input(fmt::format("nested deeper than {} levels", kMaxDepth));
  return bad_input(fmt::format("invalid JSON: {}", simdjson::error_message(error)));
}

}  // namespace

Result<TokenizerParts> parse_tokenizer_json(std::string_view json, std::string_view where) {
  if (json.size() > kMaxTokenizerJsonBytes) {
    return bad_input(
        fmt::format("{}: {} bytes, at most {} are supported", where, json.size(), kMaxTokenizerJsonBytes));
  }
  dom::parser parser;
  dom::element document;
  // simdjson would copy from the null pointer that an empty text may have.
  simdjson::error_code error = json.empty() ? simdjson::EMPTY : parser.allocate(json.size(), kMaxDepth);
  if (error == simdjson::SUCCESS) error = parser.parse(json.data(), json.size()).get(document);
  if (error != simdjson::SUCCESS) return parse_error(error).with_context(where);
  auto parts = parse_root(document);
  if (!parts.ok()) return std::move(parts).error().with_context(where);
  return parts;
}

}  // namespace nibble::text
