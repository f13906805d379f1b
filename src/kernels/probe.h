// Probes: what this machine's memory and arithmetic units can do at most, measured with loops that do
// nothing else. The yardstick of every percentage in a benchmark.
#pragma once

#include <cstddef>

#include "core/cpu_info.h"
#include "core/thread_pool.h"

namespace nibble::kernels {

// Bytes per second, all threads streaming through `bytes` of memory (allocated here; should be far
// over the caches), best of several passes. Throws std::bad_alloc.
double probe_read_bandwidth(ThreadPool& threads, std::size_t bytes, CpuIsa isa);

// Operations per second of all threads (a multiply-add counts two), best of several short runs.
// Vectors are as wide as the tier's.
double probe_fp32_fma(ThreadPool& threads, CpuIsa isa);
// 0 unless the tier is an AVX-512 one and the processor has AVX512_BF16, AVX512_VNNI; whether kernels use
// them is another question.
double probe_bf16_dot(ThreadPool& threads, CpuIsa isa);
double probe_int8_dot(ThreadPool& threads, CpuIsa isa);

}  // namespace nibble::kernels
