// Tests of the engine on a GPU. Without one they are skipped, with a message.
#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/device.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE
  ::testing::InitGoogleTest(&argc, argv);
  const nibble::kernels::CudaDevices gpus = nibble::kernels::cuda_devices();
  if (gpus.names.empty()) {
    std::printf("skipped: %s\n", gpus.status.c_str());
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
