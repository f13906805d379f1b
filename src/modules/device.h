// What modules see of a ModuleDevice.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "kernels/device.h"
#include "nibble/modules/device.h"

namespace nibble {

// Tells recordings of modules apart: who runs, on which shape, on which addresses.
struct RecordingId {
  std::uint64_t module = 0;  // of ModuleDevice::Impl::next_module
  std::uint64_t shape = 0;
  std::array<const void*, 4> addresses{};
  friend auto operator<=>(const RecordingId&, const RecordingId&) = default;
};

struct ModuleDevice::Impl {
  std::unique_ptr<kernels::Device> device;
  std::string description;
  DeviceKind kind = DeviceKind::cpu;
  bool in_sequence = false;  // inside run_recorded's work: launch, do not record by itself
  std::uint64_t next_module = 1;
  std::map<RecordingId, std::uint64_t> keys;

  [[nodiscard]] kernels::Exec& exec() const { return device->exec(); }
  [[nodiscard]] MemorySpace& memory() const { return device->exec().memory(); }

  // Launches, records or replays, as Exec::run_recorded does.
  void run(const RecordingId& id, const std::function<void()>& launch);
  // Waits for everything; then drops all recordings.
  void settle();
};

}  // namespace nibble
