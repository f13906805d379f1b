// Kernel micro-benchmarks. Limits are measured in the same run and printed with the results; NIBBLE_ISA
// and NIBBLE_THREADS choose the tier and the team.
#include <fmt/format.h>

#include "bench/kernels/setup.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const nibble::MachineLimits& limits = nibble::bench::limits();
  const nibble::VersionInfo version = nibble::version_info();
  benchmark::AddCustomContext("device", nibble::bench::device().description());
  benchmark::AddCustomContext("nibble", fmt::format("{} ({})", version.version, version.commit));
  benchmark::AddCustomContext(
      "limits", fmt::format("read {:.1f} GB/s, fp32 {:.0f} GFLOP/s, bf16 dot {:.0f} GFLOP/s, "
                            "int8 dot {:.0f} GOP/s",
                            limits.read_gb_s, limits.fp32_gflops, limits.bf16_gflops, limits.int8_gops));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
