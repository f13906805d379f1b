#include "kernels/probe.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "core/buffer.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nibble::kernels {
namespace {

using Clock = std::chrono::steady_clock;

// Long enough to drown thread wake-up and clock noise, short enough to repeat.
constexpr int kArithmeticRepeats = 5;
constexpr std::int64_t kArithmeticLoops = 2'000'000;
constexpr int kReadPasses = 5;

// Hides the latency (4 cycles) of two multiply-add units at one result a cycle each, with room to spare.
constexpr int kChains = 12;

// A thread reads this many places at once, so that several hardware prefetchers work for it.
constexpr std::size_t kStreams = 4;
constexpr std::size_t kLine = 64;
// Software prefetch distance in bytes per stream: a few hundred cycles ahead; the page walk of the next
// huge page starts early enough too.
constexpr std::size_t kAhead = 2048;

// Runs fn(thread) on all threads and returns the shortest of `repeats` durations in seconds.
template <class Fn>
double best_seconds(ThreadPool& threads, int repeats, Fn&& fn) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const Clock::time_point start = Clock::now();
    threads.parallel_for(threads.num_threads(), [&](std::int64_t task, int) { fn(task); });
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// Start values come from and results go to empty assembly, so that the compiler can neither drop the
// work nor compute chains that look equal only once.
using ReadFn = void (*)(const std::byte* data, std::size_t bytes);
using LoopFn = void (*)(std::int64_t loops);

void read_scalar(const std::byte* data, std::size_t bytes) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes / sizeof(std::uint64_t); ++i) sum |= words[i];
  asm volatile("" : : "r"(sum));
}

void fma_scalar(std::int64_t loops) {
  float factor = 0.999F;
  asm volatile("" : "+m"(factor));
  float chains[kChains] = {};
  for (float& chain : chains) asm volatile("" : "+m"(chain));
  for (std::int64_t i = 0; i < loops; ++i) {
    for (float& chain : chains) chain = chain * factor + factor;
  }
  for (float& chain : chains) asm volatile("" : : "m"(chain));
}

#if defined(__x86_64__)

#define NIB_AVX2 __attribute__((target("avx2,fma")))
#define NIB_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NIB_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define NIB_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

NIB_AVX2 void read_avx2(const std::byte* data, std::size_t bytes) {
  const std::size_t stream_bytes = bytes / kStreams / kLine * kLine;
  __m256i sum[kStreams] = {};
  for (std::size_t i = 0; i < stream_bytes; i += kLine) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* line = data + s * stream_bytes + i;
      _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
      const auto* v = reinterpret_cast<const __m256i*>(line);
      sum[s] = _mm256_or_si256(sum[s], _mm256_or_si256(_mm256_load_si256(v), _mm256_load_si256(v + 1)));
    }
  }
  asm volatile("" : : "x"(sum[0]), "x"(sum[1]), "x"(sum[2]), "x"(sum[3]));
}

NIB_AVX512 void read_avx512(const std::byte* data, std::size_t bytes) {
  const std::size_t stream_bytes = bytes / kStreams / kLine * kLine;
  __m512i sum[kStreams] = {};
  for (std::size_t i = 0; i < stream_bytes; i += kLine) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* line = data + s * stream_bytes + i;
      _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
      sum[s] = _mm512_or_si512(sum[s], _mm512_load_si512(line));
    }
  }
  asm volatile("" : : "v"(sum[0]), "v"(sum[1]), "v"(sum[2]), "v"(sum[3]));
}

NIB_AVX2 void fma_avx2(std::int64_t loops) {
  __m256 chains[kChains] = {};
  for (__m256& chain : chains) asm volatile("" : "+x"(chain));
  __m256 factor = _mm256_set1_ps(0.999F);
  asm volatile("" : "+x"(factor));
  for (std::int64_t i = 0; i < loops; ++i) {
    for (__m256& chain : chains) chain = _mm256_fmadd_ps(chain, factor, factor);
  }
  for (__m256& chain : chains) asm volatile("" : : "x"(chain));
}

NIB_AVX512 void fma_avx512(std::int64_t loops) {
  __m512 chains[kChains] = {};
  for (__m512& chain : chains) asm volatile("" : "+v"(chain));
  __m512 factor = _mm512_set1_ps(0.999F);
  asm volatile("" : "+v"(factor));
  for (std::int64_t i = 0; i < loops; ++i) {
    for (__m512& chain : chains) chain = _mm512_fmadd_ps(chain, factor, factor);
  }
  for (__m512& chain : chains) asm volatile("" : : "v"(chain));
}

NIB_AVX512_BF16 void dot_bf16(std::int64_t loops) {
  __m512 chains[kChains] = {};
  for (__m512& chain : chains) asm volatile("" : "+v"(chain));
  __m512i bits = _mm512_set1_epi16(0x3F80);
  asm volatile("" : "+v"(bits));
  const __m512bh operand = (__m512bh)bits;  // a reinterpreting cast between vector types
  for (std::int64_t i = 0; i < loops; ++i) {
    for (__m512& chain : chains) chain = _mm512_dpbf16_ps(chain, operand, operand);
  }
  for (__m512& chain : chains) asm volatile("" : : "v"(chain));
}

NIB_AVX512_VNNI void dot_int8(std::int64_t loops) {
  __m512i chains[kChains] = {};
  for (__m512i& chain : chains) asm volatile("" : "+v"(chain));
  __m512i operand = _mm512_set1_epi8(3);
  asm volatile("" : "+v"(operand));
  for (std::int64_t i = 0; i < loops; ++i) {
    for (__m512i& chain : chains) chain = _mm512_dpbusd_epi32(chain, operand, operand);
  }
  for (__m512i& chain : chains) asm volatile("" : : "v"(chain));
}

#endif

ReadFn read_fn([[maybe_unused]] CpuIsa isa) {
#if defined(__x86_64__)
  if (isa >= CpuIsa::avx512) return read_avx512;
  if (isa == CpuIsa::avx2) return read_avx2;
#endif
  return read_scalar;
}

// Operations per second of a loop that runs kChains instructions of `ops` operations each round.
double measure_loop(ThreadPool& threads, LoopFn loop, int ops) {
  const double seconds =
      best_seconds(threads, kArithmeticRepeats, [&](std::int64_t) { loop(kArithmeticLoops); });
  return static_cast<double>(kArithmeticLoops) * kChains * ops * threads.num_threads() / seconds;
}

}  // namespace

double probe_read_bandwidth(ThreadPool& threads, std::size_t bytes, CpuIsa isa) {
  const auto num_threads = static_cast<std::size_t>(threads.num_threads());
  const std::size_t share =
      std::max(kStreams * kLine, bytes / num_threads / (kStreams * kLine) * (kStreams * kLine));
  const Buffer memory(share * num_threads + kAhead);
  // Every page is written first: pages never written all read one zero page out of the cache.
  best_seconds(threads, 1, [&](std::int64_t task) {
    std::fill_n(memory.data() + static_cast<std::size_t>(task) * share, share, std::byte{1});
  });
  const ReadFn read = read_fn(isa);
  const double seconds = best_seconds(threads, kReadPasses, [&](std::int64_t task) {
    read(memory.data() + static_cast<std::size_t>(task) * share, share);
  });
  return static_cast<double>(share * num_threads) / seconds;
}

double probe_fp32_fma(ThreadPool& threads, CpuIsa isa) {
#if defined(__x86_64__)
  if (isa >= CpuIsa::avx512) return measure_loop(threads, fma_avx512, 16 * 2);
  if (isa == CpuIsa::avx2) return measure_loop(threads, fma_avx2, 8 * 2);
#endif
  static_cast<void>(isa);
  return measure_loop(threads, fma_scalar, 2);
}

double probe_bf16_dot(ThreadPool& threads, CpuIsa isa) {
#if defined(__x86_64__)
  if (isa >= CpuIsa::avx512 && cpu_info().avx512_bf16) return measure_loop(threads, dot_bf16, 32 * 2);
#endif
  static_cast<void>(threads);
  static_cast<void>(isa);
  return 0;
}

double probe_int8_dot(ThreadPool& threads, CpuIsa isa) {
#if defined(__x86_64__)
  if (isa >= CpuIsa::avx512 && cpu_info().avx512_vnni) return measure_loop(threads, dot_int8, 64 * 2);
#endif
  static_cast<void>(threads);
  static_cast<void>(isa);
  return 0;
}

}  // namespace nibble::kernels
