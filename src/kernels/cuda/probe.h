// What this GPU can do at most, measured now: the yardstick of benchmarks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace nibble::kernels::cuda {

// Bytes per second of reading data[bytes] once, best of several passes.
double probe_read_bandwidth(cudaStream_t stream, int num_sms, const std::byte* data, std::size_t bytes);

// Operations per second of bf16 wgmma from registers and shared memory (a multiply-add counts two), best of
// several runs of some milliseconds, on random values.
double probe_bf16_wgmma(cudaStream_t stream, int num_sms);

}  // namespace nibble::kernels::cuda
