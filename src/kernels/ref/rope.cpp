#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {
namespace {

void rotate(float* x, const float* cos, const float* sin, std::int64_t num_pairs) {
  for (std::int64_t j = 0; j < num_pairs; ++j) {
    const float even = x[2 * j];
    const float odd = x[2 * j + 1];
    x[2 * j] = even * cos[j] - odd * sin[j];
    x[2 * j + 1] = odd * cos[j] + even * sin[j];
  }
}

}  // namespace

void rope(Exec& exec, const RopeArgs& args) {
  const std::int64_t num_pairs = args.cos.dim(1);
  const std::int64_t num_heads = args.x.rank == 3 ? args.x.dim(1) : 1;
  NIB_CHECK(args.x.dim(args.x.rank - 1) == 2 * num_pairs, "rope of {} values with {} angles",
            args.x.dim(args.x.rank - 1), num_pairs);
  exec.threads().parallel_for(args.x.dim(0), [&](std::int64_t i, int) {
    const std::int64_t position = args.positions[i];
    NIB_CHECK(position >= 0 && position < args.cos.dim(0), "position {} is outside the rope table of {}",
              position, args.cos.dim(0));
    for (std::int64_t head = 0; head < num_heads; ++head) {
      float* x = args.x.rank == 3 ? row_of(args.x, i, head) : row_of(args.x, i);
      rotate(x, row_of(args.cos, position), row_of(args.sin, position), num_pairs);
    }
  });
}

}  // namespace nibble::kernels::ref
