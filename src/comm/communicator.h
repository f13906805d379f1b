// Communicator: what layers need from the other ranks of a model. One process per device; a single
// device has the communicator that does nothing, so there is one code path.
#pragma once

#include "core/tensor.h"

namespace nibble::comm {

class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;
  // x = sum of x over all ranks, in rank order (deterministic).
  virtual void all_reduce_sum(TensorView x) = 0;
};

// The communicator of one device.
Communicator& single() noexcept;

}  // namespace nibble::comm
