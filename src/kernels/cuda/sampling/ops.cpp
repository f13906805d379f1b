// Sampling's row of the table.
#include "kernels/cuda/ops.h"
#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/exec.h"
#include "kernels/cuda/sampling/sample.h"
#include "kernels/sampling.h"

namespace nibble::kernels::cuda {

void sample(Exec& exec, const SampleArgs& args) {
  constexpr std::int64_t kMaxRows = std::int64_t{1} << 24;
  const std::int64_t m = args.logits.dim(0);
  const std::int64_t vocabulary = args.logits.dim(1);
  NIB_CHECK(vocabulary >= 1 && vocabulary <= sampling::kMaxVocabulary, "a vocabulary of {}", vocabulary);
  NIB_CHECK(m <= kMaxRows, "{} rows of logits", m);
  if (m == 0) return;
  launch_sample({.logits = args.logits.f32(),
                 .logits_stride = args.logits.stride[0],
                 .rows = args.rows,
                 .history = args.history,
                 .ids = args.ids,
                 .m = static_cast<std::int32_t>(m),
                 .vocabulary = static_cast<std::int32_t>(vocabulary)},
                cuda_exec(exec).stream());
  check_launch("sample");
}

}  // namespace nibble::kernels::cuda
