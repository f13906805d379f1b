// system_info of nibble/system.h.
#include "nibble/system.h"

#include <cstdlib>

#include "core/cpu_info.h"
#include "core/thread_pool.h"
#include "engine/host_memory.h"
#include "kernels/device.h"

namespace nibble {

Result<SystemInfo> system_info() {
  const char* forced = std::getenv("NIBBLE_ISA");
  NIB_TRY(const CpuIsa isa, choose_isa(forced == nullptr ? "" : forced));
  const CpuInfo& cpu = cpu_info();
  SystemInfo info{.cpu = cpu.model_name,
                  .isa = std::string(isa_name(isa)),
                  .isas = {std::string(isa_name(CpuIsa::scalar))},
                  .num_threads = default_num_threads()};
  if (cpu.avx2) info.isas.emplace_back(isa_name(CpuIsa::avx2));
  if (cpu.avx512) info.isas.emplace_back(isa_name(CpuIsa::avx512));
  if (cpu.avx512_bf16) info.isas.emplace_back(isa_name(CpuIsa::avx512_bf16));
  const engine::HostMemory memory = engine::host_memory();
  info.memory_total = memory.total;
  info.memory_available = memory.available;
  kernels::CudaDevices cuda = kernels::cuda_devices();
  info.cuda_devices = std::move(cuda.names);
  info.cuda_status = std::move(cuda.status);
  return info;
}

}  // namespace nibble
