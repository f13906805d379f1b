// The machine nibble runs on: for doctor, bench and version.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nibble/result.h"

namespace nibble {

struct VersionInfo {
  std::string version;  // "0.1.0"
  std::string commit;   // short hash, "+dirty" if modified, "unknown" outside git
  std::string compiler;
  std::string build_type;
  bool cuda = false;  // compiled with the CUDA backend
};
VersionInfo version_info();

struct SystemInfo {
  std::string cpu;
  std::string isa;                // tier in use
  std::vector<std::string> isas;  // tiers this machine can run
  int num_threads = 0;
  std::uint64_t memory_total = 0;
  std::uint64_t memory_available = 0;
  std::vector<std::string> cuda_devices;
  std::string cuda_status;  // why there are none
};
Result<SystemInfo> system_info();

// Limits of this machine, measured now (about a second).
struct MachineLimits {
  double read_gb_s = 0;    // streaming read of memory far larger than the caches, all threads
  double fp32_gflops = 0;  // fused multiply-add, widest vectors of the tier
  double bf16_gflops = 0;  // bf16 dot products; 0 if the processor has none
  double int8_gops = 0;    // int8 dot products; 0 if none
};
MachineLimits measure_limits(int num_threads, const std::string& isa);
// Of the first GPU: read_gb_s and bf16_gflops (wgmma).
MachineLimits measure_gpu_limits();

}  // namespace nibble
