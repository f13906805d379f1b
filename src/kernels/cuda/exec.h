// CudaExec: the stream kernels are launched on, their scratch memory, and recorded steps (CUDA graphs).
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_map>

#include "core/buffer.h"
#include "kernels/cuda/memory.h"
#include "kernels/exec.h"

namespace nibble::kernels::cuda {

class CudaExec final : public Exec {
 public:
  // On the current device. Throws DeviceError or std::bad_alloc.
  explicit CudaExec(int num_threads);
  ~CudaExec() override;

  MemorySpace& memory() noexcept override { return memory_; }

  // The first call for a key launches; the second launches and records; later ones replay.
  void run_recorded(std::uint64_t key, const std::function<void()>& launch) override;
  void forget_recorded() override;
  [[nodiscard]] bool records() const noexcept override { return true; }

  // On two streams, each with scratch of its own. Not nested.
  void run_concurrently(const std::function<void()>& first, const std::function<void()>& second) override;

  [[nodiscard]] cudaStream_t stream() const noexcept { return lanes_[lane_].stream; }
  [[nodiscard]] int num_sms() const noexcept { return num_sms_; }

  // Device memory for the op that is running, aligned to 256 bytes; contents undefined; valid until the
  // next call. Grows to the largest size ever asked for, which drops all recordings and may not happen
  // while one is made: so the first run of a shape is not recorded.
  std::byte* scratch(std::size_t bytes);

  // For a grid_barrier (hopper/grid_barrier.cuh) of the running op; zero before the first one.
  [[nodiscard]] std::uint32_t* grid_barrier() const noexcept;

  void rehearse(const std::function<void()>& launch) override;
  [[nodiscard]] std::size_t num_rehearsed() const override;

 private:
  // What ops run on: the first lane always, the second beside it inside run_concurrently.
  struct Lane {
    cudaStream_t stream = nullptr;
    Buffer scratch;
    Buffer barrier;
  };
  struct Recording {
    int num_runs = 0;
    cudaGraphExec_t graph = nullptr;
  };
  void record(Recording& recording, const std::function<void()>& launch);
  void destroy_handles() noexcept;

  std::array<Lane, 2> lanes_;
  std::size_t lane_ = 0;
  cudaEvent_t fork_ = nullptr;
  cudaEvent_t join_ = nullptr;
  CudaMemory memory_;
  int num_sms_ = 0;
  bool recording_ = false;
  cudaGraph_t rehearsal_ = nullptr;
  std::unordered_map<std::uint64_t, Recording> recordings_;
};

// The Exec every row of the CUDA table is given.
inline CudaExec& cuda_exec(Exec& exec) { return static_cast<CudaExec&>(exec); }

}  // namespace nibble::kernels::cuda
