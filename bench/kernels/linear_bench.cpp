// linear at DeepSeek-V2-Lite's projections: decode (m = 1) against the read bandwidth, prefill against
// the arithmetic peak.
#include "bench/kernels/setup.h"

namespace nibble::bench {
namespace {

using quant::WeightFormat;

constexpr std::int64_t kInputs = 2048;

struct Variant {
  const char* name;
  WeightFormat format;
  quant::Grouping grouping;
};
constexpr Variant kVariants[] = {
    {"bf16", WeightFormat::bf16, {}},
    {"fp8", WeightFormat::fp8, {}},
    {"int8", WeightFormat::int8, {.group_k = kInputs}},
    {"mxfp4", WeightFormat::mxfp4, {}},
    {"nvfp4", WeightFormat::nvfp4, {}},
    {"int4", WeightFormat::int4, {}},
    {"int4_zeros", WeightFormat::int4, {.zero_points = true}},
    {"int4_act_order", WeightFormat::int4, {.zero_points = true, .act_order = true}},
};

void linear(benchmark::State& state, const Variant& variant, std::int64_t m, std::int64_t n) {
  constexpr std::int64_t k = kInputs;
  const kernels::Weight w =
      dummy_weight({.format = variant.format, .n = n, .k = k, .grouping = variant.grouping});
  std::vector<float> x = random_values(m * k, 2);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  kernels::Device& dev = device();
  const kernels::LinearArgs args{
      .x = make_view(x.data(), DType::f32, {m, k}), .w = w, .y = make_view(y.data(), DType::f32, {m, n})};
  for (auto _ : state) {
    dev.table().linear(dev.exec(), args);
    benchmark::ClobberMemory();
  }
  if (m <= 8) {
    report_bandwidth(state, static_cast<double>(w.bytes()));
  } else {
    report_compute(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
  }
}

struct Registered {
  Registered() {
    for (const Variant& variant : kVariants) {
      for (const std::int64_t m : {1, 4, 8, 64, 512}) {
        // The vocabulary projection for decode (beyond the caches), o_proj for prefill.
        const std::int64_t n = m <= 8 ? 102400 : 2048;
        const std::string name = "linear/" + std::string(variant.name) + "/m:" + std::to_string(m);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) { linear(s, variant, m, n); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
} registered;

}  // namespace
}  // namespace nibble::bench
