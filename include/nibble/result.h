// Error values. Every function that can fail because of the outside world (files, configuration,
// requests, memory) returns Result<T> or Status; nothing throws across this header's users.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace nibble {

// Each code is also the process exit code of the command line.
enum class ErrorCode : std::uint8_t {
  runtime = 1,        // failed while running (I/O, device, internal)
  bad_input = 2,      // flags, files, prompts that are wrong
  unsupported = 3,    // valid input for which nibble has no implementation on this device
  out_of_memory = 4,  // host or device memory
  interrupted = 130,  // Ctrl-C
};

// What went wrong, for a person: says what was expected, what was found, and where.
struct Error {
  ErrorCode code = ErrorCode::runtime;
  std::string message;

  // Puts `where` in front of the message: "where: message".
  [[nodiscard]] Error with_context(std::string_view where) && {
    message.insert(0, ": ").insert(0, where);
    return std::move(*this);
  }
};

// Holds a T or the Error that prevented it.
template <class T>
class [[nodiscard]] Result {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a function returns its value as it is
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor): and its Error likewise
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  // Precondition: ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Precondition: !ok().
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): as above
  Result(Error error) : error_(std::move(error)) {}

  [[nodiscard]] bool ok() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return ok(); }
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

inline Error bad_input(std::string message) { return {ErrorCode::bad_input, std::move(message)}; }
inline Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }
inline Error out_of_memory(std::string message) { return {ErrorCode::out_of_memory, std::move(message)}; }
inline Error runtime_error(std::string message) { return {ErrorCode::runtime, std::move(message)}; }

}  // namespace nibble

#define NIB_CONCAT_INNER(a, b) a##b
#define NIB_CONCAT(a, b) NIB_CONCAT_INNER(a, b)

// NIB_TRY(const auto x, f()): declares x from f()'s value, or returns f()'s Error to our caller.
#define NIB_TRY(declaration, expression) \
  NIB_TRY_INNER(NIB_CONCAT(nib_result_, __LINE__), declaration, expression)
#define NIB_TRY_INNER(result, declaration, expression) \
  auto result = (expression);                          \
  if (!result.ok()) return std::move(result).error();  \
  declaration = std::move(result).value()

// NIB_TRY_STATUS(f()): returns f()'s Error to our caller if it failed.
#define NIB_TRY_STATUS(expression)                                                              \
  do {                                                                                          \
    if (auto nib_status = (expression); !nib_status.ok()) return std::move(nib_status).error(); \
  } while (false)
