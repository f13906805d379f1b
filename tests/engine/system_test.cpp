#include "nibble/system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cpu_info.h"
#include "kernels/probe.h"

namespace nibble {
namespace {

using ::testing::Contains;
using ::testing::MatchesRegex;

TEST(Version, IsComplete) {
  const VersionInfo version = version_info();
  EXPECT_THAT(version.version, MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_THAT(version.commit, MatchesRegex("unknown|[0-9a-f]+(\\+dirty)?"));
  EXPECT_FALSE(version.compiler.empty());
  EXPECT_FALSE(version.build_type.empty());
}

TEST(SystemInfo, DescribesThisMachine) {
  const auto info = system_info();
  ASSERT_TRUE(info.ok()) << info.error().message;
  EXPECT_FALSE(info->cpu.empty());
  EXPECT_THAT(info->isas, Contains("scalar"));
  EXPECT_THAT(info->isas, Contains(info->isa));
  EXPECT_GE(info->num_threads, 1);
  EXPECT_GT(info->memory_total, info->memory_available / 2);
  EXPECT_NE(info->cuda_status.empty(), info->cuda_devices.empty());
}

// Only what must hold on any machine under any load; the figures are for benchmarks.
TEST(Probes, MeasureWhatTheTierHas) {
  ThreadPool threads(1);
  EXPECT_GT(kernels::probe_read_bandwidth(threads, std::size_t{4} << 20, CpuIsa::scalar), 1e6);
  EXPECT_GT(kernels::probe_fp32_fma(threads, CpuIsa::scalar), 1e6);
  EXPECT_EQ(kernels::probe_bf16_dot(threads, CpuIsa::scalar), 0);
  EXPECT_EQ(kernels::probe_int8_dot(threads, CpuIsa::avx2), 0);
  for (const auto& [present, isa] :
       {std::pair{cpu_info().avx2, CpuIsa::avx2}, {cpu_info().avx512, CpuIsa::avx512}}) {
    if (!present) continue;
    EXPECT_GT(kernels::probe_read_bandwidth(threads, std::size_t{4} << 20, isa), 1e6);
    EXPECT_GT(kernels::probe_fp32_fma(threads, isa), 1e6);
  }
  const bool has_vnni = cpu_info().avx512_vnni;
  EXPECT_EQ(kernels::probe_int8_dot(threads, cpu_info().avx512 ? CpuIsa::avx512 : CpuIsa::scalar) > 1e6,
            has_vnni);
}

}  // namespace
}  // namespace nibble
