// Counters blocks of one kernel meet at. Every lane of CudaExec has its own.
#pragma once

namespace nibble::kernels::cuda {

inline constexpr int kNumCounters = 16384;

}  // namespace nibble::kernels::cuda
