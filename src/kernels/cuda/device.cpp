#include "kernels/cuda/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "core/check.h"
#include "core/out_of_memory.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/exec.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/moe/plan.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/table.h"
#include "kernels/cuda/weights.h"

namespace nibble::kernels::cuda {
namespace {

constexpr int kHopper = 9;  // major compute capability; the code is compiled for 9.0a alone

std::string describe(const cudaDeviceProp& gpu) {
  return fmt::format("{}, {} SMs, {:.1f} GiB", gpu.name, gpu.multiProcessorCount,
                     static_cast<double>(gpu.totalGlobalMem) / (1 << 30));
}

bool can_run(const cudaDeviceProp& gpu) { return gpu.major == kHopper && gpu.minor == 0; }

std::string refuse(const cudaDeviceProp& gpu) {
  return fmt::format(
      "{} has compute capability {}.{}; this build runs on Hopper GPUs (9.0: H100, H200, GH200)", gpu.name,
      gpu.major, gpu.minor);
}

// All GPUs, or why they cannot be listed.
Result<std::vector<cudaDeviceProp>> list_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    if (driver == 0) return unsupported("there is no NVIDIA driver on this machine");
    return unsupported(fmt::format("the NVIDIA driver supports CUDA {}.{}, this build needs {}.{} or newer",
                                   driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                                   CUDART_VERSION % 1000 / 10));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    return unsupported("there is no NVIDIA GPU on this machine, or none that CUDA_VISIBLE_DEVICES shows");
  }
  if (status != cudaSuccess)
    return unsupported(fmt::format("CUDA does not start: {}", cudaGetErrorString(status)));
  std::vector<cudaDeviceProp> gpus(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    check(cudaGetDeviceProperties(&gpus[static_cast<std::size_t>(i)], i), "cudaGetDeviceProperties");
  }
  return gpus;
}

class CudaDevice final : public Device {
 public:
  CudaDevice(const cudaDeviceProp& gpu, int num_threads, bool reference_moe)
      : name_(describe(gpu)),
        table_(cuda::table()),
        exec_(num_threads),
        packer_(exec_),
        reference_moe_(reference_moe) {
    if (reference_moe) {
      table_.fused_moe = fused_moe_reference;
      table_.takes_shared_experts = KernelTable{}.takes_shared_experts;
    }
  }

  [[nodiscard]] std::string description() const override { return fmt::format("CUDA {}", name_); }
  [[nodiscard]] const KernelTable& table() const override { return table_; }
  [[nodiscard]] Exec& exec() override { return exec_; }
  [[nodiscard]] std::string operand_name() const override { return "bf16 (cuda)"; }

  [[nodiscard]] std::vector<MoeKernelRow> moe_kernels(const WeightShape& experts) const override {
    if (reference_moe_) return {{.pairs_per_expert = 0.0F, .kernel = "reference, float32"}};
    return moe_kernel_rows(experts);
  }

  [[nodiscard]] std::optional<std::uint64_t> free_memory() const override {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }

  [[nodiscard]] std::size_t weight_bytes(const WeightShape& shape) const override {
    const PackedLayout l = packed_layout(shape);
    return static_cast<std::size_t>(shape.num_groups * (l.group_code_bytes + l.group_scale_bytes));
  }

  [[nodiscard]] Result<std::vector<Weight>> allocate_weights(
      std::span<const WeightShape> shapes) const override {
    std::vector<Weight> weights;
    try {
      for (const WeightShape& shape : shapes) weights.push_back(packer_.allocate(shape));
    } catch (const std::bad_alloc&) {
      const WeightShape& shape = shapes[weights.size()];
      return out_of_memory(fmt::format(
          "no memory on the GPU for a packed weight of {} bytes ({} x [{}, {}] {}), {} bytes are free; use "
          "--quantization mxfp4, fewer layers or a smaller model",
          weight_bytes(shape), shape.num_groups, shape.n, shape.k, quant::format_name(shape.format),
          free_memory().value_or(0)));
    }
    return weights;
  }

  [[nodiscard]] std::int64_t strip_rows(const WeightShape& shape) const override {
    return WeightPacker::strip_rows(shape);
  }

  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows) override {
    packer_.pack_rows(weight, group, row, src, src_row, rows);
  }

  void fill_dummy(Weight& weight, std::uint64_t seed) override { packer_.fill_dummy(weight, seed); }

 private:
  std::string name_;
  KernelTable table_;
  CudaExec exec_;
  WeightPacker packer_;
  bool reference_moe_;
};

}  // namespace

Result<std::unique_ptr<Device>> make_cuda_device(int num_threads, bool reference_moe) {
  auto gpus = list_gpus();
  const auto cannot = [](const std::string& why) {
    return unsupported(fmt::format("device cuda: {}; use --device cpu", why));
  };
  if (!gpus.ok()) return cannot(gpus.error().message);
  if (!can_run(gpus->front())) return cannot(refuse(gpus->front()));
  try {
    check(cudaSetDevice(0), "cudaSetDevice");
    return std::unique_ptr<Device>(std::make_unique<CudaDevice>(gpus->front(), num_threads, reference_moe));
  } catch (const OutOfMemory& e) {
    return out_of_memory(fmt::format("device cuda: {}; another process may hold the GPU's memory", e.what()));
  } catch (const std::bad_alloc&) {
    return out_of_memory("device cuda: no memory of the host to start the GPU");
  } catch (const DeviceError& e) {
    return runtime_error(e.what());
  }
}

CudaDevices find_devices() {
  CudaDevices found;
  const auto gpus = list_gpus();
  if (!gpus.ok()) return {.names = {}, .status = gpus.error().message};
  for (const cudaDeviceProp& gpu : *gpus) {
    if (can_run(gpu)) {
      found.names.push_back(describe(gpu));
    } else {
      found.status += (found.status.empty() ? "" : "; ") + refuse(gpu);
    }
  }
  return found;
}

GpuLimits measure_gpu() {
  constexpr std::size_t kProbeBytes = std::size_t{2} << 30;  // forty times the L2
  CudaExec exec(1);
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const Buffer data = exec.memory().allocate(std::min(kProbeBytes, free / 2));
  return {.read_bandwidth = probe_read_bandwidth(exec.stream(), exec.num_sms(), data.data(), data.size()),
          .bf16_wgmma = probe_bf16_wgmma(exec.stream(), exec.num_sms())};
}

}  // namespace nibble::kernels::cuda
