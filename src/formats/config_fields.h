// Reading a JSON object field by field with ranges: the vocabulary hf_config.cpp and
// quantization_config.cpp are written in. Include from .cpp files only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::formats {

struct IntRange {
  std::int64_t min;
  std::int64_t max;
};

struct RealRange {
  double min;
  double max;
};

// One object of a config file. The first error sticks: later reads leave their targets alone and
// status() returns it, so a list of reads needs no check in between. A null value counts as absent.
class ConfigFields {
 public:
  using Json = nlohmann::ordered_json;

  // `where` names the file; `path` the object inside it ("" = the top level). `object` must outlive this.
  ConfigFields(const Json& object, std::string where, std::string path = "");

  [[nodiscard]] bool has(std::string_view name) const;
  [[nodiscard]] const Json* find(std::string_view name) const;  // null if absent or null
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] bool ok() const { return status_.ok(); }

  // Required fields.
  void integer(std::string_view name, std::int64_t& out, IntRange range);
  void real(std::string_view name, double& out, RealRange range);
  void string(std::string_view name, std::string& out);

  // The same, but absent leaves `out` as it is. Return whether the field was there.
  bool optional_integer(std::string_view name, std::int64_t& out, IntRange range);
  bool optional_real(std::string_view name, double& out, RealRange range);
  bool optional_boolean(std::string_view name, bool& out);
  bool optional_string(std::string_view name, std::string& out);
  bool optional_strings(std::string_view name, std::vector<std::string>& out);

  // The object under `name`, for reading; absent gives nullopt, another type is an error.
  std::optional<ConfigFields> optional_object(std::string_view name);

  // Fields of which nibble implements one value: absent or that value passes, another is unsupported.
  void only_string(std::string_view name, std::string_view only);
  void only_boolean(std::string_view name, bool only);
  void only_absent(std::string_view name);

  // bad_input "file: path.field: text".
  void fail(std::string_view name, std::string_view text);
  // bad_input "file: path.field: expected <expected>, found <value>".
  void fail_expected(std::string_view name, std::string_view expected);
  // unsupported "file: path.field: <value> is not supported; supported: a, b".
  void fail_unsupported(std::string_view name, std::string_view found,
                        std::span<const std::string_view> supported);
  // Keeps another reader's error.
  void absorb(const Status& status);

 private:
  [[nodiscard]] std::string place(std::string_view name) const;
  void fail_with(ErrorCode code, std::string_view name, std::string_view text);
  bool present_or_fail(std::string_view name);

  const Json* object_;
  std::string where_;
  std::string path_;
  Status status_;
};

// Checks that the value is an object, for the constructor above.
Status check_is_object(const nlohmann::ordered_json& value, std::string_view where);

}  // namespace nibble::formats
