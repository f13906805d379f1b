#include <cmath>

#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {

void rms_norm(Exec& exec, const RmsNormArgs& args) {
  const std::int64_t d = args.x.dim(1);
  exec.threads().parallel_for(args.x.dim(0), [&](std::int64_t i, int) {
    float* x = row_of(args.x, i);
    float* y = row_of(args.y, i);
    if (args.add.rank != 0) {
      const float* add = row_of(args.add, i);
      for (std::int64_t j = 0; j < d; ++j) x[j] += add[j];
    }
    const float scale = 1.0F / std::sqrt(dot(x, x, d) / static_cast<float>(d) + args.eps);
    for (std::int64_t j = 0; j < d; ++j) y[j] = x[j] * scale * args.weight[j];
  });
}

void add(Exec& exec, const AddArgs& args) {
  exec.threads().parallel_for(args.x.dim(0), [&](std::int64_t i, int) {
    float* x = row_of(args.x, i);
    const float* y = row_of(args.y, i);
    for (std::int64_t j = 0; j < args.x.dim(1); ++j) x[j] += y[j];
  });
}

}  // namespace nibble::kernels::ref
