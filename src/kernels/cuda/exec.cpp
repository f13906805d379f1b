#include "kernels/cuda/exec.h"

#include <cstdint>
#include <utility>

#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/failing.h"

namespace nibble::kernels::cuda {
namespace {

// The second lane's blocks go before the first's: what runs there must not queue behind kernels of the first
// lane that take all multiprocessors.
cudaStream_t make_stream(bool first) {
  int lowest = 0;
  int highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, first ? lowest : highest),
        "cudaStreamCreate");
  return stream;
}

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}

}  // namespace

CudaExec::CudaExec(int num_threads)
    : Exec(num_threads),
      lanes_{Lane{.stream = make_stream(true), .scratch = {}, .barrier = {}},
             Lane{.stream = make_stream(false), .scratch = {}, .barrier = {}}},
      fork_(make_event()),
      join_(make_event()),
      memory_(lanes_[0].stream) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  try {
    // Zeroed in the first lane's stream: the second one's work comes after some of it.
    for (Lane& lane : lanes_) lane.barrier = memory_.allocate(sizeof(std::uint32_t));
  } catch (...) {
    destroy_handles();
    throw;
  }
}

CudaExec::~CudaExec() {
  forget_recorded();
  destroy_handles();
}

void CudaExec::destroy_handles() noexcept {
  static_cast<void>(cudaEventDestroy(fork_));
  static_cast<void>(cudaEventDestroy(join_));
  for (const Lane& lane : lanes_) static_cast<void>(cudaStreamDestroy(lane.stream));
}

void CudaExec::run_recorded(std::uint64_t key, const std::function<void()>& launch) {
  if (key == 0) return launch();
  Recording& recording = recordings_[key];
  if (recording.num_runs++ == 0) return launch();
  if (recording.graph == nullptr) record(recording, launch);
  check(cudaGraphLaunch(recording.graph, stream()), "cudaGraphLaunch");
}

void CudaExec::record(Recording& recording, const std::function<void()>& launch) {
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  recording_ = true;
  cudaGraph_t graph = nullptr;
  try {
    launch();
  } catch (...) {
    recording_ = false;
    static_cast<void>(cudaStreamEndCapture(lanes_[0].stream, &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    throw;
  }
  recording_ = false;
  check(cudaStreamEndCapture(lanes_[0].stream, &graph), "cudaStreamEndCapture");
  const cudaError_t status =
      allocation_fails() ? cudaErrorMemoryAllocation : cudaGraphInstantiate(&recording.graph, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  check(status, "cudaGraphInstantiate");
}

void CudaExec::rehearse(const std::function<void()>& launch) {
  check(cudaGraphCreate(&rehearsal_, 0), "cudaGraphCreate");
  const auto end = [&] {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(lanes_[0].stream, &graph);
    static_cast<void>(cudaGraphDestroy(std::exchange(rehearsal_, nullptr)));
    return status;
  };
  try {
    check(cudaStreamBeginCaptureToGraph(stream(), rehearsal_, nullptr, nullptr, 0,
                                        cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCaptureToGraph");
    launch();
  } catch (...) {
    static_cast<void>(end());
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(end(), "cudaStreamEndCapture");
}

std::size_t CudaExec::num_rehearsed() const {
  std::size_t count = 0;
  check(cudaGraphGetNodes(rehearsal_, nullptr, &count), "cudaGraphGetNodes");
  return count;
}

void CudaExec::forget_recorded() {
  for (auto& [key, recording] : recordings_) {
    if (recording.graph != nullptr) static_cast<void>(cudaGraphExecDestroy(recording.graph));
  }
  recordings_.clear();
}

void CudaExec::run_concurrently(const std::function<void()>& first, const std::function<void()>& second) {
  NIB_CHECK(lane_ == 0, "work on the second lane cannot be divided again");
  check(cudaEventRecord(fork_, lanes_[0].stream), "cudaEventRecord");
  check(cudaStreamWaitEvent(lanes_[1].stream, fork_), "cudaStreamWaitEvent");
  first();
  lane_ = 1;
  try {
    second();
  } catch (...) {
    lane_ = 0;
    throw;
  }
  lane_ = 0;
  check(cudaEventRecord(join_, lanes_[1].stream), "cudaEventRecord");
  check(cudaStreamWaitEvent(lanes_[0].stream, join_), "cudaStreamWaitEvent");
}

std::uint32_t* CudaExec::grid_barrier() const noexcept {
  return reinterpret_cast<std::uint32_t*>(lanes_[lane_].barrier.data());
}

std::byte* CudaExec::scratch(std::size_t bytes) {
  constexpr std::uintptr_t kMadeUp = 256;
  if (rehearsal_ != nullptr) return reinterpret_cast<std::byte*>(kMadeUp);
  Buffer& scratch = lanes_[lane_].scratch;
  if (bytes > scratch.size()) {
    NIB_CHECK(!recording_, "scratch grows from {} to {} bytes while a step is recorded", scratch.size(),
              bytes);
    check(cudaStreamSynchronize(stream()), "waiting for the device");
    forget_recorded();
    scratch = Buffer();
    scratch = allocate_uninitialised(bytes);
  }
  return scratch.data();
}

}  // namespace nibble::kernels::cuda
