// Timing of decode and prefill on a loaded model, beside the limits of the machine measured right
// before and right after (shared machines fluctuate from second to second).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "nibble/llm.h"
#include "nibble/result.h"
#include "nibble/system.h"

namespace nibble::cli {

enum class BenchKind : std::uint8_t { decode, prefill };

struct BenchTest {
  BenchKind kind = BenchKind::decode;
  std::int32_t tokens = 0;  // generated (decode) or read (prefill) per sequence
  std::int32_t depth = 0;   // tokens in the context before
  std::int32_t batch = 1;   // sequences at a time

  // "tg128 @ d4096 b4"
  [[nodiscard]] std::string name() const;
  // Context a sequence needs.
  [[nodiscard]] std::int32_t context() const;
};

struct BenchResult {
  BenchTest test;
  std::vector<double> seconds;  // per repetition, for `tokens` of every sequence
  StepCost cost;                // decode: of a step half-way; prefill: of the whole
  MachineLimits before;
  MachineLimits after;

  [[nodiscard]] std::vector<double> tokens_per_second() const;
  [[nodiscard]] double bytes_per_token() const;
  // Decode: bytes that must be read for a token, times the mean tokens per second.
  [[nodiscard]] double gb_per_second() const;
  [[nodiscard]] double read_limit_gb_s() const { return (before.read_gb_s + after.read_gb_s) / 2; }
  // Prefill: the same with arithmetic.
  [[nodiscard]] double gflops() const;
};

struct Spread {
  double mean = 0;
  double sd = 0;  // of a sample (n - 1); 0 for a single value
};
Spread spread(const std::vector<double>& values);

// The arithmetic peak that prefill is compared with: bf16 dot products where the processor has them.
struct Peak {
  const char* name = "";
  double before = 0;
  double after = 0;
  [[nodiscard]] double mean() const { return (before + after) / 2; }
};
Peak arithmetic_peak(const BenchResult& result);

struct BenchPlan {
  std::vector<BenchTest> tests;
  std::int32_t repetitions = 5;  // after one warm-up run
  std::function<MachineLimits()> measure;
};

// ErrorCode::interrupted after Ctrl-C (callers hold an InterruptScope on llm).
Result<std::vector<BenchResult>> run_bench(Llm& llm, const BenchPlan& plan, const ProgressCallback& progress);

}  // namespace nibble::cli
