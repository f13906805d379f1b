// Arena: scratch memory of one forward pass. Allocation is a bump of a pointer; everything is
// released at once by reset().
//
// In counting mode no memory is handed out (addresses are not readable); the arena only records how
// much the same code would need, so that the real arena can be sized once at load.
#pragma once

#include <cstddef>

#include "core/buffer.h"
#include "core/memory_space.h"
#include "core/tensor.h"

namespace nibble {

class Arena {
 public:
  // Counting mode.
  Arena() = default;
  // Owns `bytes`.
  explicit Arena(std::size_t bytes, MemorySpace& space = host_space())
      : buffer_(space.allocate(bytes)), capacity_(bytes), counting_(false) {}

  // 64-byte aligned, uninitialised.
  std::byte* allocate(std::size_t bytes);

  TensorView tensor(DType dtype, std::initializer_list<std::int64_t> shape);

  void reset() noexcept { used_ = 0; }
  [[nodiscard]] std::size_t used() const noexcept { return used_; }
  [[nodiscard]] std::size_t peak() const noexcept { return peak_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] bool counting() const noexcept { return counting_; }

  // Frees what was allocated since `mark` (a value of used()), unless an ArenaHold keeps it.
  void rewind(std::size_t mark) noexcept {
    if (num_holds_ == 0) used_ = mark;
  }

 private:
  friend class ArenaHold;

  Buffer buffer_;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  bool counting_ = true;
  int num_holds_ = 0;
};

// Frees everything allocated in its scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.used()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::size_t mark_;
};

// Nothing allocated in its scope is reused before the scope ends: for work that runs side by side.
class ArenaHold {
 public:
  explicit ArenaHold(Arena& arena) : arena_(arena), mark_(arena.used()) { ++arena_.num_holds_; }
  ~ArenaHold() {
    --arena_.num_holds_;
    arena_.rewind(mark_);
  }
  ArenaHold(const ArenaHold&) = delete;
  ArenaHold& operator=(const ArenaHold&) = delete;

 private:
  Arena& arena_;
  std::size_t mark_;
};

}  // namespace nibble
