#include "core/cpu_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(ChooseIsa, PicksTheBestByDefault) {
  const CpuInfo& cpu = cpu_info();
  const Result<CpuIsa> isa = choose_isa("");
  ASSERT_TRUE(isa.ok());
  const CpuIsa expected = cpu.avx512_bf16 && cpu.amd ? CpuIsa::avx512_bf16
                          : cpu.avx512               ? CpuIsa::avx512
                          : cpu.avx2                 ? CpuIsa::avx2
                                                     : CpuIsa::scalar;
  EXPECT_EQ(isa.value(), expected);
}

TEST(ChooseIsa, ForcesATier) {
  const CpuInfo& cpu = cpu_info();
  EXPECT_EQ(choose_isa("scalar").value(), CpuIsa::scalar);
  const auto expect = [](const char* name, bool present, CpuIsa isa) {
    const Result<CpuIsa> chosen = choose_isa(name);
    ASSERT_EQ(chosen.ok(), present) << name;
    if (present) {
      EXPECT_EQ(chosen.value(), isa);
    } else {
      EXPECT_EQ(chosen.error().code, ErrorCode::unsupported);
      EXPECT_THAT(chosen.error().message, HasSubstr(name));
    }
  };
  expect("avx2", cpu.avx2, CpuIsa::avx2);
  expect("avx512", cpu.avx512, cpu.avx512_bf16 && cpu.amd ? CpuIsa::avx512_bf16 : CpuIsa::avx512);
  expect("avx512_f32", cpu.avx512, CpuIsa::avx512);
  expect("avx512_bf16", cpu.avx512_bf16, CpuIsa::avx512_bf16);
}

TEST(ChooseIsa, RefusesUnknownNames) {
  for (const char* name : {"AVX2", "sse", "avx512_bf16 ", "neon"}) {
    const Result<CpuIsa> isa = choose_isa(name);
    ASSERT_FALSE(isa.ok()) << name;
    EXPECT_EQ(isa.error().code, ErrorCode::bad_input);
    EXPECT_THAT(isa.error().message, HasSubstr(name));
  }
}

TEST(CpuInfo, TiersBuildOnOneAnother) {
  const CpuInfo& cpu = cpu_info();
  EXPECT_FALSE(cpu.model_name.empty());
  EXPECT_TRUE(!cpu.avx512 || cpu.avx2);
  EXPECT_TRUE(!cpu.avx512_bf16 || cpu.avx512);
  EXPECT_TRUE(!cpu.avx512_vnni || cpu.avx512);
}

}  // namespace
}  // namespace nibble
