// OutOfMemory: a bad_alloc that says what was asked for and what there is.
#pragma once

#include <new>
#include <stdexcept>
#include <string>

#include "nibble/result.h"

namespace nibble {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(const std::string& message) : message_(message) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.what(); }

 private:
  std::runtime_error message_;  // its copies do not throw
};

// out_of_memory with `wanted` (what the memory was for, and what to do), and what `e` knows.
Error no_memory(std::string wanted, const std::bad_alloc& e);

}  // namespace nibble
