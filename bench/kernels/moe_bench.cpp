// fused_moe at DeepSeek-V2-Lite's experts (64 of 1408 x 2048, 6 chosen), uniform routing.
#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "bench/kernels/setup.h"

namespace nibble::bench {
namespace {

using quant::WeightFormat;

constexpr std::int64_t kHidden = 2048;
constexpr std::int64_t kIntermediate = 1408;
constexpr std::int64_t kExperts = 64;
constexpr std::int64_t kTopk = 6;

std::vector<std::int32_t> random_routing(std::int64_t m, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> all(kExperts);
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < m; ++t) {
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + kTopk);
    ids.insert(ids.end(), all.begin(), all.begin() + kTopk);
  }
  return ids;
}

void moe(benchmark::State& state, WeightFormat format, std::int64_t m) {
  const kernels::Weight gate =
      dummy_weight({.format = format, .num_groups = kExperts, .n = kIntermediate, .k = kHidden});
  const kernels::Weight up =
      dummy_weight({.format = format, .num_groups = kExperts, .n = kIntermediate, .k = kHidden});
  const kernels::Weight down =
      dummy_weight({.format = format, .num_groups = kExperts, .n = kHidden, .k = kIntermediate});
  std::vector<float> x = random_values(m * kHidden, 3);
  std::vector<float> y(x.size());
  const std::vector<float> weights(static_cast<std::size_t>(m * kTopk), 1.0F / kTopk);
  // Several routings in turn, so that one step's experts are not in the cache for the next.
  std::vector<std::vector<std::int32_t>> routings;
  for (std::uint64_t i = 0; i < 16; ++i) routings.push_back(random_routing(m, i));
  kernels::Device& dev = device();
  double experts_read = 0;
  std::size_t step = 0;
  for (auto _ : state) {
    const auto& ids = routings[step++ % routings.size()];
    dev.table().fused_moe(dev.exec(), {.x = make_view(x.data(), DType::f32, {m, kHidden}),
                                       .topk_ids = ids.data(),
                                       .topk_weights = weights.data(),
                                       .topk = kTopk,
                                       .gate = gate,
                                       .up = up,
                                       .down = down,
                                       .y = make_view(y.data(), DType::f32, {m, kHidden})});
    benchmark::ClobberMemory();
  }
  for (const auto& ids : routings)
    experts_read += static_cast<double>(std::set<std::int32_t>(ids.begin(), ids.end()).size());
  experts_read /= static_cast<double>(routings.size());
  const double all_bytes = static_cast<double>(gate.bytes() + up.bytes() + down.bytes());
  if (m <= 64) {
    report_bandwidth(state, all_bytes * experts_read / kExperts);
  } else {
    report_compute(state, 6.0 * static_cast<double>(m * kTopk * kHidden * kIntermediate));
  }
}

struct Registered {
  Registered() {
    for (const WeightFormat format : {WeightFormat::fp8, WeightFormat::mxfp4, WeightFormat::nvfp4}) {
      for (const std::int64_t m : {1, 4, 16, 64, 512}) {
        const std::string name =
            "fused_moe/" + std::string(quant::format_name(format)) + "/m:" + std::to_string(m);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) { moe(s, format, m); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
} registered;

}  // namespace
}  // namespace nibble::bench
