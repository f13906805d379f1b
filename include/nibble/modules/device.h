// ModuleDevice: what standalone modules (linear.h, mla.h, moe.h) run on: a processor or a GPU, its memory and
// the order of its work. Everything launched on one device runs in the order of the calls, also from
// different modules.
//
// Threads: one thread at a time may use a device and the modules on it. A module keeps its device alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

struct ModuleDeviceOptions {
  std::string device = "auto";  // cpu, cuda, or auto: a GPU if there is one this build runs on
  int num_threads = 0;          // 0 = all cores
  std::string isa;  // tier of the CPU's kernels; empty = the environment's NIBBLE_ISA, else the best
};

// Move-only owner of memory where a device's modules read and write. Frees it when it goes; to be destroyed
// after the work that uses it has ended (ModuleDevice::synchronize).
class DeviceArray {
 public:
  DeviceArray() = default;

  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] float* f32() const noexcept { return static_cast<float*>(data_); }
  [[nodiscard]] std::int32_t* i32() const noexcept { return static_cast<std::int32_t*>(data_); }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  friend class ModuleDevice;
  std::shared_ptr<void> owner_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class ModuleDevice {
 public:
  // bad_input: an unknown device or tier; unsupported: no such device here.
  static Result<std::shared_ptr<ModuleDevice>> open(const ModuleDeviceOptions& options = {});
  ~ModuleDevice();
  ModuleDevice(const ModuleDevice&) = delete;
  ModuleDevice& operator=(const ModuleDevice&) = delete;

  // For people: "CPU avx512 (...), 2 threads", "CUDA NVIDIA H100 80GB HBM3, 132 SMs, 79.1 GiB".
  [[nodiscard]] const std::string& description() const noexcept;
  // cpu: the modules' pointers are ordinary ones. cuda: pointers to device memory (of allocate() or
  // cudaMalloc).
  [[nodiscard]] DeviceKind kind() const noexcept;

  // Zero-filled. out_of_memory.
  Result<DeviceArray> allocate(std::size_t bytes);
  // Between the host's memory and the device's; both wait until the copy is done, download also for
  // everything launched before.
  Status upload(void* to, const void* from, std::size_t bytes);
  Status download(void* to, const void* from, std::size_t bytes);

  // Waits for everything launched so far and reports its errors. Calls on a CPU return when they are done.
  Status synchronize();

  // Runs what `work` launches: forwards of LinearModule and MoeModule and MlaModule::attend on this device,
  // nothing that waits or copies. On a GPU it is recorded as one CUDA graph the second time a key comes and
  // replayed from then on without calling `work`: for equal keys all arguments must be equal, only what
  // memory holds may differ. A key is from 1 to 2^62. bad_input otherwise, or what `work` returned.
  Status run_recorded(std::uint64_t key, const std::function<Status()>& work);
  // Drops the recordings of run_recorded and of the modules: before memory that they use goes away.
  void forget_recorded();

  // The cudaStream_t everything is launched on; null on a CPU. Order work of your own with it by events.
  [[nodiscard]] void* native_stream() const noexcept;

  struct Impl;
  [[nodiscard]] Impl& impl() noexcept { return *impl_; }

 private:
  explicit ModuleDevice(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
