#include "bench/kernels/setup.h"

#include <cstdio>
#include <cstdlib>
#include <random>

namespace nibble::bench {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::unique_ptr<kernels::Device> open_device() {
  const std::string threads = environment("NIBBLE_THREADS");
  auto made = kernels::make_device(
      {.num_threads = threads.empty() ? 0 : std::atoi(threads.c_str()), .isa = environment("NIBBLE_ISA")});
  if (!made.ok()) {
    std::fprintf(stderr, "error: %s\n", made.error().message.c_str());
    std::exit(static_cast<int>(made.error().code));
  }
  return std::move(made).value();
}

}  // namespace

kernels::Device& device() {
  static const std::unique_ptr<kernels::Device> instance = open_device();
  return *instance;
}

const MachineLimits& limits() {
  static const MachineLimits instance =
      measure_limits(device().exec().threads().num_threads(), environment("NIBBLE_ISA"));
  return instance;
}

void report_bandwidth(benchmark::State& state, double bytes) {
  using benchmark::Counter;
  const double total = bytes * static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(total / 1e9, Counter::kIsRate);
  state.counters["%read"] = Counter(100.0 * total / 1e9 / limits().read_gb_s, Counter::kIsRate);
}

void report_compute(benchmark::State& state, double flops) {
  using benchmark::Counter;
  const double peak = limits().bf16_gflops > 0 ? limits().bf16_gflops : limits().fp32_gflops;
  const double total = flops * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(total / 1e9, Counter::kIsRate);
  state.counters["%peak"] = Counter(100.0 * total / 1e9 / peak, Counter::kIsRate);
}

kernels::Weight dummy_weight(const kernels::WeightShape& shape) {
  auto weight = device().allocate_weight(shape);
  if (!weight.ok()) {
    std::fprintf(stderr, "error: %s\n", weight.error().message.c_str());
    std::exit(static_cast<int>(weight.error().code));
  }
  device().fill_dummy(*weight, 1);
  return std::move(weight).value();
}

std::vector<float> random_values(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = uniform(random);
  return values;
}

}  // namespace nibble::bench
