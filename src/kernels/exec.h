// Exec: all a kernel gets besides its arguments.
#pragma once

#include <cstddef>

#include "core/buffer.h"
#include "core/thread_pool.h"

namespace nibble::kernels {

class Exec {
 public:
  explicit Exec(int num_threads) : threads_(num_threads) {}

  ThreadPool& threads() noexcept { return threads_; }

  // Scratch shared by the op that is running; contents undefined; valid until the next call. Grows
  // to the largest size ever asked for, so a steady state allocates nothing.
  std::byte* scratch(std::size_t bytes) {
    if (bytes > scratch_.size()) {
      scratch_ = Buffer();
      scratch_ = Buffer(bytes);
    }
    return scratch_.data();
  }

 private:
  ThreadPool threads_;
  Buffer scratch_;
};

}  // namespace nibble::kernels
