#include <gtest/gtest.h>

#include "core/arena.h"
#include "kernels/kernel_table.h"

namespace nibble::kernels::testing {
namespace {

// In counting mode addresses cannot be read: a row that touched them would crash.
TEST(CountingKernels, TouchNoMemory) {
  Arena arena;
  Exec exec(1);
  const KernelTable table = counting_kernels();
  const TensorView x = arena.tensor(DType::f32, {4, 8});
  const Weight weight;
  table.linear(exec, {.x = x, .w = weight, .y = x});
  table.gated_linear(exec, {.x = x, .gate = weight, .up = weight, .y = x});
  table.rms_norm(exec, {.x = x, .weight = nullptr, .eps = 1e-6F, .y = x});
  table.add(exec, {.x = x, .y = x});
  EXPECT_GT(arena.peak(), 0U);
}

TEST(CountingKernels, EveryRowIsFilled) {
  const KernelTable t = counting_kernels();
  EXPECT_TRUE(t.embed != nullptr && t.linear != nullptr && t.gated_linear != nullptr &&
              t.head_linear != nullptr && t.head_linear_transposed != nullptr && t.rms_norm != nullptr &&
              t.add != nullptr && t.rope != nullptr && t.cache_write != nullptr &&
              t.cache_gather != nullptr && t.mla_absorbed != nullptr && t.mha != nullptr &&
              t.topk_gate != nullptr && t.fused_moe != nullptr);
}

}  // namespace
}  // namespace nibble::kernels::testing
