// linear at DeepSeek-V2-Lite's projections: decode (m = 1) against the read bandwidth, prefill against
// the arithmetic peak.
#include "bench/kernels/setup.h"

namespace nibble::bench {
namespace {

using quant::WeightFormat;

void linear(benchmark::State& state, WeightFormat format, std::int64_t m, std::int64_t n, std::int64_t k) {
  const kernels::Weight w = dummy_weight(format, 1, n, k);
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
    for (const WeightFormat format :
         {WeightFormat::bf16, WeightFormat::fp8, WeightFormat::mxfp4, WeightFormat::nvfp4}) {
      for (const std::int64_t m : {1, 4, 8, 64, 512}) {
        // The vocabulary projection for decode (beyond the caches), o_proj for prefill.
        const std::int64_t n = m <= 8 ? 102400 : 2048;
        const std::string name =
            "linear/" + std::string(quant::format_name(format)) + "/m:" + std::to_string(m);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& s) { linear(s, format, m, n, 2048); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
} registered;

}  // namespace
}  // namespace nibble::bench
