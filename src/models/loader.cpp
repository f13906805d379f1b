#include "models/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "core/quote.h"
#include "formats/mapped_file.h"
#include "models/weight_packer.h"

namespace nibble::models {
namespace {

using formats::Checkpoint;
using formats::TensorInfo;

// Tensors are handed to the threads in batches of about this size a thread: large enough that waiting
// for the last task of a batch costs little, small enough for progress to move.
constexpr std::size_t kBatchBytesPerThread = std::size_t{32} << 20;
constexpr std::size_t kMaxBatchBytes = std::size_t{512} << 20;

// Source bytes per task, about: the size of a huge page, since threads that first write to the same one
// at the same time each clear it.
constexpr std::int64_t kTaskBytes = std::int64_t{2} << 20;
// Rows of one matrix that one thread checks and packs.
struct PackTask {
  const Binding* binding;
  std::int64_t begin;
  std::int64_t end;
};

std::int64_t row_bytes(const quant::MatrixView& matrix) {
  return matrix.k * quant::format_row(matrix.format).bits / 8;
}

std::int64_t task_rows(const quant::MatrixView& matrix) {
  constexpr std::int64_t kUnit = WeightPacker::kRowUnit;
  return (kTaskBytes / std::max<std::int64_t>(1, row_bytes(matrix)) / kUnit + 1) * kUnit;
}

std::string tensor_name(const Checkpoint& checkpoint, const Binding& binding) {
  const TensorInfo& tensor = binding.main_tensor();
  return fmt::format("{}: tensor {}", printable(checkpoint.files()[tensor.file_idx].native(), 1024),
                     formats::tensor_label(tensor));
}

std::size_t source_bytes(const Binding& binding) {
  std::size_t bytes = 0;
  for (const TensorInfo* tensor : binding.tensors) bytes += tensor->data.size();
  return bytes;
}

// Runs the tasks of a batch on all threads and keeps the first error.
class BatchPacker {
 public:
  BatchPacker(const Checkpoint& checkpoint, const BoundCheckpoint& bound, kernels::Device& device,
              quant::ScaleRule scales)
      : checkpoint_(checkpoint), device_(device), packer_(bound.bindings, device, scales) {}

  Status pack(std::span<const Binding* const> batch) {
    tasks_.clear();
    for (const Binding* binding : batch) {
      if (!binding->spec->is_matrix()) {
        NIB_TRY_STATUS(read_parameter(*binding));
        continue;
      }
      NIB_TRY_STATUS(packer_.prepare(*binding, tensor_name(checkpoint_, *binding)));
      const std::int64_t rows = task_rows(binding->matrix);
      for (std::int64_t begin = 0; begin < binding->matrix.n; begin += rows) {
        tasks_.push_back({binding, begin, std::min(begin + rows, binding->matrix.n)});
      }
    }
    device_.exec().threads().parallel_for(
        static_cast<std::int64_t>(tasks_.size()),
        [this](std::int64_t i, int) { run(tasks_[static_cast<std::size_t>(i)]); });
    if (bad_ == nullptr) return {};
    return WeightPacker::not_finite(*bad_, tensor_name(checkpoint_, *bad_));
  }

 private:
  void run(const PackTask& task) {
    if (!packer_.pack(*task.binding, task.begin, task.end)) {
      const std::lock_guard lock(mutex_);
      if (bad_ == nullptr || task.binding < bad_) bad_ = task.binding;
      return;
    }
    const quant::MatrixView& matrix = task.binding->matrix;
    const std::int64_t bytes = row_bytes(matrix);
    const std::int64_t rows = task.end - task.begin;
    // Small pieces, and layouts that do not keep rows in one piece, go with their batch: every call
    // interrupts the other threads' cores.
    if (matrix.layout != quant::MatrixLayout::rows || rows * bytes < kTaskBytes / 2) return;
    formats::advise_done({matrix.codes + task.begin * bytes, static_cast<std::size_t>(rows * bytes)});
  }

  Status read_parameter(const Binding& binding) {
    layers::Parameter& parameter = *binding.spec->vector;
    NIB_TRY(const std::vector<float> values,
            formats::read_vector(checkpoint_, binding.spec->name, {&parameter.size, 1}));
    Buffer host(values.size() * sizeof(float));
    std::memcpy(host.data(), values.data(), host.size());
    parameter.values = device_.exec().memory().place(std::move(host));
    return {};
  }

  const Checkpoint& checkpoint_;
  kernels::Device& device_;
  WeightPacker packer_;
  std::vector<PackTask> tasks_;
  std::mutex mutex_;
  const Binding* bad_ = nullptr;  // the first in list order, whichever thread found it
};

// All bindings in the order their codes lie in the files.
std::vector<const Binding*> in_file_order(const BoundCheckpoint& bound) {
  std::vector<const Binding*> order;
  order.reserve(bound.bindings.size());
  for (const Binding& binding : bound.bindings) order.push_back(&binding);
  std::sort(order.begin(), order.end(), [](const Binding* a, const Binding* b) {
    const TensorInfo& x = a->main_tensor();
    const TensorInfo& y = b->main_tensor();
    return x.file_idx != y.file_idx ? x.file_idx < y.file_idx : x.data.data() < y.data.data();
  });
  return order;
}

// The end of the batch that begins at `begin`.
std::size_t batch_end(const std::vector<const Binding*>& order, std::size_t begin, std::size_t batch_bytes) {
  std::size_t bytes = 0;
  std::size_t end = begin;
  while (end < order.size() && bytes < batch_bytes) bytes += source_bytes(*order[end++]);
  return end;
}

// The bytes of a batch as few runs: tensors usually follow each other in the file.
std::vector<std::span<const std::byte>> mapped_runs(std::span<const Binding* const> batch) {
  std::vector<std::span<const std::byte>> runs;
  for (const Binding* binding : batch) {
    for (const TensorInfo* tensor : binding->tensors) runs.push_back(tensor->data);
  }
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  std::size_t count = 0;
  for (const std::span<const std::byte> run : runs) {
    if (count > 0 && runs[count - 1].data() + runs[count - 1].size() == run.data()) {
      runs[count - 1] = {runs[count - 1].data(), runs[count - 1].size() + run.size()};
    } else {
      runs[count++] = run;
    }
  }
  runs.resize(count);
  return runs;
}

void prefetch(std::span<const Binding* const> batch) {
  for (const auto run : mapped_runs(batch)) formats::advise_will_need(run);
}

void release(std::span<const Binding* const> batch) {
  for (const auto run : mapped_runs(batch)) formats::advise_done(run);
}

}  // namespace

Status allocate_weights(const std::vector<WeightSpec>& specs, kernels::Device& device) {
  const std::vector<WeightEntry> entries = distinct_weights(specs);
  std::size_t total = 0;
  for (const WeightEntry& entry : entries) total += device.weight_bytes(entry.weight->shape);
  std::vector<kernels::WeightShape> shapes;
  for (const WeightEntry& entry : entries) shapes.push_back(entry.weight->shape);
  auto weights = device.allocate_weights(shapes);
  if (!weights.ok()) {
    return std::move(weights).error().with_context(
        fmt::format("the packed weights take {:.1f} MiB in all", static_cast<double>(total) / (1 << 20)));
  }
  for (std::size_t i = 0; i < entries.size(); ++i) *entries[i].weight = std::move(weights.value()[i]);
  return {};
}

Status stream_weights(const Checkpoint& checkpoint, const BoundCheckpoint& bound, kernels::Device& device,
                      quant::ScaleRule scales, const ProgressCallback& progress) {
  const std::vector<const Binding*> order = in_file_order(bound);
  std::uint64_t total = 0;
  for (const Binding* binding : order) total += source_bytes(*binding);

  const auto num_threads = static_cast<std::size_t>(device.exec().threads().num_threads());
  const std::size_t batch_bytes = std::min(num_threads * kBatchBytesPerThread, kMaxBatchBytes);

  BatchPacker packer(checkpoint, bound, device, scales);
  std::uint64_t done = 0;
  std::size_t end = batch_end(order, 0, batch_bytes);
  prefetch(std::span(order).subspan(0, end));
  for (std::size_t begin = 0; begin < order.size();) {
    if (progress && !progress("load weights", done, total, "bytes")) {
      return Error{ErrorCode::interrupted, "loading was interrupted"};
    }
    const auto batch = std::span(order).subspan(begin, end - begin);
    const std::size_t next_end = batch_end(order, end, batch_bytes);
    prefetch(std::span(order).subspan(end, next_end - end));
    NIB_TRY_STATUS(packer.pack(batch));
    release(batch);
    for (const Binding* binding : batch) done += source_bytes(*binding);
    begin = end;
    end = next_end;
  }
  if (progress && !progress("load weights", done, total, "bytes")) {
    return Error{ErrorCode::interrupted, "loading was interrupted"};
  }
  return {};
}

}  // namespace nibble::models
