#include "engine/device_options.h"

#include <fmt/format.h>

#include <cstdlib>

namespace nibble::engine {

Result<kernels::DeviceOptions> parse_device_options(const std::string& device, int num_threads,
                                                    const std::string& isa, std::string_view threads_field) {
  constexpr int kMaxThreads = 1024;
  if (device != "auto" && device != "cpu" && device != "cuda") {
    return bad_input(fmt::format("device '{}' is unknown; use auto, cpu or cuda", device));
  }
  if (num_threads < 0 || num_threads > kMaxThreads) {
    return bad_input(
        fmt::format("{} is {}, must be from 0 (all cores) to {}", threads_field, num_threads, kMaxThreads));
  }
  const char* set = std::getenv("NIBBLE_ISA");
  const std::string tier = !isa.empty() || set == nullptr ? isa : set;
  // Who names a tier of the CPU's kernels means the CPU.
  const bool on_gpu =
      device == "cuda" || (device == "auto" && tier.empty() && !kernels::cuda_devices().names.empty());
  return kernels::DeviceOptions{
      .kind = on_gpu ? DeviceKind::cuda : DeviceKind::cpu, .num_threads = num_threads, .isa = tier};
}

Result<DType> parse_cache_dtype(std::string_view name, DeviceKind device, std::string_view field) {
  // On the CPU float32 costs twice the memory of bf16 and keeps the results of the reference; a step reads
  // far more weights than cache. A GPU's matrix units take bf16 anyway.
  if (name == "auto") return device == DeviceKind::cuda ? DType::bf16 : DType::f32;
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "fp8" || name == "fp8_e4m3") return DType::f8_e4m3;
  if (name == "fp8_e5m2") return DType::f8_e5m2;
  return bad_input(
      fmt::format("{} '{}' is unknown; use auto, f32, bf16, fp8, fp8_e4m3 or fp8_e5m2", field, name));
}

}  // namespace nibble::engine
