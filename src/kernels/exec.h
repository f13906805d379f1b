// Exec: all a kernel gets besides its arguments. A backend with a stream, its own memory or recorded
// launches derives from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/buffer.h"
#include "core/memory_space.h"
#include "core/thread_pool.h"

namespace nibble::kernels {

class Exec {
 public:
  explicit Exec(int num_threads) : threads_(num_threads) {}
  virtual ~Exec() = default;
  Exec(const Exec&) = delete;
  Exec& operator=(const Exec&) = delete;

  // Where tensors, weights and integer arrays that kernels read must lie.
  virtual MemorySpace& memory() noexcept { return host_space(); }

  // Runs `launch`, which only calls ops. Where launching costs time, a backend may record the ops under
  // `key` and repeat them without calling `launch`: for equal keys all arguments must be equal, and only
  // what memory holds may differ.
  virtual void run_recorded(std::uint64_t key, const std::function<void()>& launch) {
    static_cast<void>(key);
    launch();
  }
  // Drops all recordings: to be called before memory that they read or write goes away.
  virtual void forget_recorded() {}
  // Whether it records: then it pays to make steps equal.
  [[nodiscard]] virtual bool records() const noexcept { return false; }

  // Calls `launch` as if to record it, but nothing runs and no memory is touched, so that addresses may be
  // made up. Not at all where launches are not recorded.
  virtual void rehearse(const std::function<void()>& launch) { static_cast<void>(launch); }
  // Inside rehearse(): nodes that the recording has so far (kernels, copies).
  [[nodiscard]] virtual std::size_t num_rehearsed() const { return 0; }

  // Runs what `first` and `second` launch, which must not depend on each other; a backend may run them at the
  // same time. What is launched later waits for both.
  virtual void run_concurrently(const std::function<void()>& first, const std::function<void()>& second) {
    first();
    second();
  }

  // Host threads.
  ThreadPool& threads() noexcept { return threads_; }

  // Host scratch shared by the op that is running; contents undefined; valid until the next call. Grows
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
