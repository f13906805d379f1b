#include "comm/communicator.h"

namespace nibble::comm {
namespace {

class Single final : public Communicator {
 public:
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int size() const noexcept override { return 1; }
  void all_reduce_sum(TensorView) override {}
};

}  // namespace

Communicator& single() noexcept {
  static Single instance;
  return instance;
}

}  // namespace nibble::comm
