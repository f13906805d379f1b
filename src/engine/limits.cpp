// measure_limits of nibble/system.h.
#include <algorithm>
#include <new>

#include "core/cpu_info.h"
#include "core/thread_pool.h"
#include "engine/host_memory.h"
#include "kernels/device.h"
#include "kernels/probe.h"
#include "nibble/system.h"

namespace nibble {
namespace {

// Some thirty times the largest last-level cache per core in use, and read in a tenth of a second.
constexpr std::uint64_t kProbeBytes = std::uint64_t{1} << 30;
constexpr double kGiga = 1e9;

}  // namespace

MachineLimits measure_gpu_limits() {
  MachineLimits limits;
  try {
    const kernels::GpuLimits gpu = kernels::measure_gpu();
    limits.read_gb_s = gpu.read_bandwidth / kGiga;
    limits.bf16_gflops = gpu.bf16_wgmma / kGiga;
  } catch (const std::exception&) {
    // No memory left beside the model: what was not measured stays 0.
  }
  return limits;
}

MachineLimits measure_limits(int num_threads, const std::string& isa) {
  const auto forced = choose_isa(isa);
  const CpuIsa tier = forced.ok() ? *forced : *choose_isa("");
  MachineLimits limits;
  try {
    ThreadPool threads(num_threads > 0 ? num_threads : default_num_threads());
    const auto bytes = static_cast<std::size_t>(std::min(kProbeBytes, engine::host_memory().available / 2));
    limits.read_gb_s = kernels::probe_read_bandwidth(threads, bytes, tier) / kGiga;
    limits.fp32_gflops = kernels::probe_fp32_fma(threads, tier) / kGiga;
    limits.bf16_gflops = kernels::probe_bf16_dot(threads, tier) / kGiga;
    limits.int8_gops = kernels::probe_int8_dot(threads, tier) / kGiga;
  } catch (const std::exception&) {
    // No memory or threads to measure with: what was not measured stays 0.
  }
  return limits;
}

}  // namespace nibble
