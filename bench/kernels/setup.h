// What the kernel benchmarks share: the device, the limits measured in this run, and counters that set
// each result beside its limit.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device.h"
#include "nibble/system.h"

namespace nibble::bench {

// Made once from NIBBLE_ISA and NIBBLE_THREADS; exits with a message if that is not possible.
kernels::Device& device();

// Measured when first asked for.
const MachineLimits& limits();

// Adds GB/s and % of the read bandwidth to a result that reads `bytes` per iteration.
void report_bandwidth(benchmark::State& state, double bytes);

// Adds GFLOP/s and % of the float32 peak (of the bf16 peak on tiers with bf16 products).
void report_compute(benchmark::State& state, double flops);

// A weight with dummy contents, larger than the caches where `num_groups` makes it so.
kernels::Weight dummy_weight(const kernels::WeightShape& shape);

// Deterministic values in [-1, 1).
std::vector<float> random_values(std::int64_t count, std::uint64_t seed);

}  // namespace nibble::bench
