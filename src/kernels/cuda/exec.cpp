#include "kernels/cuda/exec.h"

#include "core/check.h"
#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

}  // namespace

CudaExec::CudaExec(int num_threads) : Exec(num_threads), stream_(make_stream()), memory_(stream_) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
}

CudaExec::~CudaExec() {
  forget_recorded();
  static_cast<void>(cudaStreamDestroy(stream_));
}

void CudaExec::run_recorded(std::uint64_t key, const std::function<void()>& launch) {
  if (key == 0) return launch();
  Recording& recording = recordings_[key];
  if (recording.num_runs++ == 0) return launch();
  if (recording.graph == nullptr) record(recording, launch);
  check(cudaGraphLaunch(recording.graph, stream_), "cudaGraphLaunch");
}

void CudaExec::record(Recording& recording, const std::function<void()>& launch) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  recording_ = true;
  cudaGraph_t graph = nullptr;
  try {
    launch();
  } catch (...) {
    recording_ = false;
    static_cast<void>(cudaStreamEndCapture(stream_, &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    throw;
  }
  recording_ = false;
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  check(cudaGraphGetNodes(graph, nullptr, &num_graph_nodes_), "cudaGraphGetNodes");
  const cudaError_t status = cudaGraphInstantiate(&recording.graph, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  check(status, "cudaGraphInstantiate");
}

void CudaExec::forget_recorded() {
  for (auto& [key, recording] : recordings_) {
    if (recording.graph != nullptr) static_cast<void>(cudaGraphExecDestroy(recording.graph));
  }
  recordings_.clear();
}

std::byte* CudaExec::scratch(std::size_t bytes) {
  if (bytes > scratch_.size()) {
    NIB_CHECK(!recording_, "scratch grows from {} to {} bytes while a step is recorded", scratch_.size(),
              bytes);
    check(cudaStreamSynchronize(stream_), "waiting for the device");
    forget_recorded();
    scratch_ = Buffer();
    scratch_ = allocate_uninitialised(bytes);
  }
  return scratch_.data();
}

}  // namespace nibble::kernels::cuda
