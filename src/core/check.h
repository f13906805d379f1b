// Checks for our own bugs. A failed check throws InternalError, which Engine::step and the public
// entry points turn into an Error; user mistakes never reach a check (they are Result values).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace nibble {

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// A device or the operating system refused (out of memory, CUDA, NCCL).
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& text);

}  // namespace nibble

// NIB_CHECK(cond, "format", values...): always on.
#define NIB_CHECK(condition, ...)                                                         \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::nibble::check_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (false)

// NIB_DCHECK: for inner loops; compiled out in release builds.
#ifdef NDEBUG
#define NIB_DCHECK(condition, ...) \
  do {                             \
  } while (false)
#else
#define NIB_DCHECK(condition, ...) NIB_CHECK(condition, __VA_ARGS__)
#endif
