#include "formats/config_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>

#include "core/quote.h"

namespace nibble::formats {
namespace {

using Json = ConfigFields::Json;

constexpr std::size_t kMaxValueBytes = 80;

std::string describe(const Json& value) {
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), kMaxValueBytes);
}

// Exact: a float such as 64.0 is not an integer, and nothing is rounded on the way.
std::optional<std::int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  return std::nullopt;
}

}  // namespace

Status check_is_object(const Json& value, std::string_view where) {
  if (value.is_object()) return {};
  return bad_input(fmt::format("{}: expected a JSON object, found {}", where, describe(value)));
}

ConfigFields::ConfigFields(const Json& object, std::string where, std::string path)
    : object_(&object), where_(std::move(where)), path_(std::move(path)) {}

const Json* ConfigFields::find(std::string_view name) const {
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool ConfigFields::has(std::string_view name) const { return find(name) != nullptr; }

std::string ConfigFields::place(std::string_view name) const {
  return path_.empty() ? fmt::format("{}: {}", where_, name) : fmt::format("{}: {}.{}", where_, path_, name);
}

void ConfigFields::fail_with(ErrorCode code, std::string_view name, std::string_view text) {
  if (ok()) status_ = Error{code, fmt::format("{}: {}", place(name), text)};
}

void ConfigFields::fail(std::string_view name, std::string_view text) {
  fail_with(ErrorCode::bad_input, name, text);
}

void ConfigFields::fail_expected(std::string_view name, std::string_view expected) {
  const auto it = object_->find(name);
  fail(name,
       fmt::format("expected {}, found {}", expected, it == object_->end() ? "nothing" : describe(*it)));
}

void ConfigFields::fail_unsupported(std::string_view name, std::string_view found,
                                    std::span<const std::string_view> supported) {
  fail_with(ErrorCode::unsupported, name,
            fmt::format("{} is not supported; supported: {}", quote(found, kMaxValueBytes),
                        fmt::join(supported, ", ")));
}

void ConfigFields::absorb(const Status& status) {
  if (ok() && !status.ok()) status_ = status;
}

bool ConfigFields::present_or_fail(std::string_view name) {
  if (!ok() || has(name)) return ok();
  fail(name, object_->contains(name) ? "null; expected a value" : "missing");
  return false;
}

void ConfigFields::integer(std::string_view name, std::int64_t& out, IntRange range) {
  if (present_or_fail(name)) optional_integer(name, out, range);
}

void ConfigFields::real(std::string_view name, double& out, RealRange range) {
  if (present_or_fail(name)) optional_real(name, out, range);
}

void ConfigFields::string(std::string_view name, std::string& out) {
  if (present_or_fail(name)) optional_string(name, out);
}

bool ConfigFields::optional_integer(std::string_view name, std::int64_t& out, IntRange range) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return false;
  const std::optional<std::int64_t> number = as_integer(*value);
  if (!number || *number < range.min || *number > range.max) {
    fail_expected(name, fmt::format("an integer from {} to {}", range.min, range.max));
    return false;
  }
  out = *number;
  return true;
}

bool ConfigFields::optional_real(std::string_view name, double& out, RealRange range) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return false;
  const double number = value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(number >= range.min && number <= range.max)) {
    fail_expected(name, fmt::format("a number from {} to {}", range.min, range.max));
    return false;
  }
  out = number;
  return true;
}

bool ConfigFields::optional_boolean(std::string_view name, bool& out) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return false;
  if (!value->is_boolean()) {
    fail_expected(name, "true or false");
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool ConfigFields::optional_string(std::string_view name, std::string& out) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return false;
  if (!value->is_string()) {
    fail_expected(name, "a string");
    return false;
  }
  out = value->get<std::string>();
  return true;
}

bool ConfigFields::optional_strings(std::string_view name, std::vector<std::string>& out) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return false;
  bool all_strings = value->is_array();
  for (const Json& item : *value) all_strings = all_strings && item.is_string();
  if (!all_strings) {
    fail_expected(name, "a list of strings");
    return false;
  }
  out = value->get<std::vector<std::string>>();
  return true;
}

void ConfigFields::only_string(std::string_view name, std::string_view only) {
  std::string value;
  if (optional_string(name, value) && value != only) fail_unsupported(name, value, {&only, 1});
}

void ConfigFields::only_boolean(std::string_view name, bool only) {
  bool value = only;
  const std::string_view supported = only ? "true" : "false";
  if (optional_boolean(name, value) && value != only)
    fail_unsupported(name, value ? "true" : "false", {&supported, 1});
}

void ConfigFields::only_absent(std::string_view name) {
  constexpr std::string_view kAbsent = "leaving the field out";
  const Json* value = find(name);
  if (value == nullptr) return;
  fail_unsupported(name, value->is_string() ? value->get<std::string>() : describe(*value), {&kAbsent, 1});
}

std::optional<ConfigFields> ConfigFields::optional_object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || !ok()) return std::nullopt;
  if (!value->is_object()) {
    fail_expected(name, "an object");
    return std::nullopt;
  }
  return ConfigFields(*value, where_, path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name));
}

}  // namespace nibble::formats
