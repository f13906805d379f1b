#include "tests/kernels/tiers.h"

#include <cstring>
#include <map>
#include <stdexcept>

#include "core/cpu_info.h"

namespace nibble::kernels::testing {

std::vector<TierCase> available_tiers() {
  const CpuInfo& cpu = cpu_info();
  std::vector<TierCase> tiers{{.name = "scalar", .isa = "scalar", .bf16_products = false}};
  if (cpu.avx2) tiers.push_back({.name = "avx2", .isa = "avx2", .bf16_products = false});
  if (cpu.avx512) tiers.push_back({.name = "avx512", .isa = "avx512_f32", .bf16_products = false});
  if (cpu.avx512_bf16) tiers.push_back({.name = "avx512_bf16", .isa = "avx512_bf16", .bf16_products = true});
  return tiers;
}

Device& device_of(const TierCase& tier, int num_threads) {
  static std::map<std::pair<std::string, int>, std::unique_ptr<Device>> devices;
  std::unique_ptr<Device>& device = devices[{tier.isa, num_threads}];
  if (device == nullptr) {
    auto made = make_device({.kind = DeviceKind::cpu, .num_threads = num_threads, .isa = tier.isa});
    if (!made) throw std::runtime_error(made.error().message);
    device = std::move(made).value();
  }
  constexpr std::size_t kPoisonBytes = std::size_t{1} << 20;
  std::memset(device->exec().scratch(kPoisonBytes), 0xFF, kPoisonBytes);
  return *device;
}

}  // namespace nibble::kernels::testing
