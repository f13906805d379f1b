#include "core/cpu_info.h"

#include <fmt/format.h>

#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace nibble {
namespace {

std::string read_model_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

#if defined(__x86_64__)
// Clang 14 does not know f16c in __builtin_cpu_supports.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

CpuInfo detect() {
  CpuInfo info;
  info.model_name = read_model_name();
#if defined(__x86_64__)
  __builtin_cpu_init();
  info.amd = __builtin_cpu_is("amd");
  info.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  info.avx512 = info.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  info.avx512_vnni = info.avx512 && __builtin_cpu_supports("avx512vnni");
  info.avx512_bf16 = info.avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

std::string_view isa_name(CpuIsa isa) noexcept {
  switch (isa) {
    case CpuIsa::scalar: return "scalar";
    case CpuIsa::avx2: return "avx2";
    case CpuIsa::avx512: return "avx512";
    case CpuIsa::avx512_bf16: return "avx512_bf16";
  }
  return "?";
}

Result<CpuIsa> choose_isa(std::string_view forced) {
  const CpuInfo& cpu = cpu_info();
  const CpuIsa best_avx512 = cpu.avx512_bf16 && cpu.amd ? CpuIsa::avx512_bf16 : CpuIsa::avx512;
  const auto require = [&](bool present, CpuIsa isa) -> Result<CpuIsa> {
    if (present) return isa;
    return unsupported(
        fmt::format("NIBBLE_ISA={} asks for instructions this processor lacks ({})", forced, cpu.model_name));
  };
  if (forced.empty()) return cpu.avx512 ? best_avx512 : cpu.avx2 ? CpuIsa::avx2 : CpuIsa::scalar;
  if (forced == "scalar") return CpuIsa::scalar;
  if (forced == "avx2") return require(cpu.avx2, CpuIsa::avx2);
  if (forced == "avx512") return require(cpu.avx512, best_avx512);
  if (forced == "avx512_f32") return require(cpu.avx512, CpuIsa::avx512);
  if (forced == "avx512_bf16") return require(cpu.avx512_bf16, CpuIsa::avx512_bf16);
  return bad_input(
      fmt::format("NIBBLE_ISA={}: unknown; use scalar, avx2, avx512, avx512_f32 or avx512_bf16", forced));
}

}  // namespace nibble
