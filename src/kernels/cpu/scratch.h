// Cuts one op's scratch memory (Exec::scratch) into aligned parts.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "kernels/exec.h"

namespace nibble::kernels::cpu {

constexpr std::size_t align_scratch(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

class Scratch {
 public:
  Scratch(Exec& exec, std::initializer_list<std::size_t> part_bytes) {
    std::size_t total = 0;
    for (const std::size_t bytes : part_bytes) total += align_scratch(bytes);
    next_ = exec.scratch(total);
  }
  // The next part, in the order given to the constructor.
  template <class T = std::byte>
  T* take(std::size_t bytes) {
    std::byte* part = next_;
    next_ += align_scratch(bytes);
    return reinterpret_cast<T*>(part);
  }

 private:
  std::byte* next_;
};

}  // namespace nibble::kernels::cpu
