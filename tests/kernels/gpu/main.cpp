// The kernel tests on a GPU. Without one they are skipped, with a message.
#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/device.h"
#include "tests/kernels/gpu/page_locked_heap.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE
  ::testing::InitGoogleTest(&argc, argv);
  const nibble::kernels::CudaDevices gpus = nibble::kernels::cuda_devices();
  if (gpus.names.empty()) {
    std::printf("skipped: %s\n", gpus.status.c_str());
    return kSkipped;
  }
  std::printf("running on %s\n", gpus.names.front().c_str());
  if (!nibble::kernels::testing::lock_heap_pages()) {
    std::printf("the test heap cannot be page-locked\n");
    return 1;
  }
  return RUN_ALL_TESTS();
}
