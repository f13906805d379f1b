// mla_absorbed for one decode step at DeepSeek-V2-Lite's and V3's shapes; the cache is what must be read.
#include <numeric>

#include "bench/kernels/setup.h"

namespace nibble::bench {
namespace {

constexpr std::int64_t kRank = 512;
constexpr std::int64_t kRope = 64;
constexpr std::int32_t kPageSize = 64;

void mla(benchmark::State& state, std::int64_t heads, std::int32_t context, DType cache_dtype) {
  const std::int64_t width = kRank + kRope;
  std::vector<float> q_latent = random_values(heads * kRank, 4);
  std::vector<float> q_pe = random_values(heads * kRope, 5);
  std::vector<float> o(q_latent.size());
  std::vector<float> cache_values = random_values(context * width, 6);
  std::vector<std::uint16_t> cache_bf16(cache_values.size(), 0x3E80);
  std::vector<std::int32_t> pages(static_cast<std::size_t>(context / kPageSize));
  std::iota(pages.begin(), pages.end(), 0);
  const std::int32_t cu_seqlens_q[2] = {0, 1};
  void* cache = cache_dtype == DType::f32 ? static_cast<void*>(cache_values.data()) : cache_bf16.data();
  const kernels::MlaAbsorbedArgs args{.q_latent = make_view(q_latent.data(), DType::f32, {1, heads, kRank}),
                                      .q_pe = make_view(q_pe.data(), DType::f32, {1, heads, kRope}),
                                      .cache = make_view(cache, cache_dtype, {context, width}),
                                      .ragged = {.num_seqs = 1,
                                                 .cu_seqlens_q = cu_seqlens_q,
                                                 .seq_lens = &context,
                                                 .page_tables = pages.data(),
                                                 .max_pages = static_cast<std::int32_t>(pages.size()),
                                                 .page_size = kPageSize},
                                      .scale = 0.07F,
                                      .o = make_view(o.data(), DType::f32, {1, heads, kRank})};
  kernels::Device& dev = device();
  for (auto _ : state) {
    dev.table().mla_absorbed(dev.exec(), args);
    benchmark::ClobberMemory();
  }
  const std::int64_t cache_bytes = context * width * dtype_bits(cache_dtype) / 8;
  report_bandwidth(state, static_cast<double>(cache_bytes));
  report_compute(state, 2.0 * static_cast<double>(heads * context * (2 * kRank + kRope)));
}

struct Registered {
  Registered() {
    for (const std::int64_t heads : {16, 128}) {
      for (const std::int32_t context : {1024, 16384}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const std::string name = "mla_absorbed/heads:" + std::to_string(heads) +
                                   "/context:" + std::to_string(context) + "/" +
                                   std::string(dtype_name(dtype));
          benchmark::RegisterBenchmark(name.c_str(),
                                       [=](benchmark::State& s) { mla(s, heads, context, dtype); })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
} registered;

}  // namespace
}  // namespace nibble::bench
