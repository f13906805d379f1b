#include "models/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "core/quote.h"
#include "quant/int_layouts.h"

namespace nibble::models {
namespace {

using formats::Checkpoint;
using formats::TensorInfo;

// Tensors are handed to the threads in batches of about this size: large enough that small experts
// keep all threads busy, small enough to bound what is mapped at a time.
constexpr std::size_t kBatchBytes = std::size_t{32} << 20;

// Rows per task: a multiple of the packers' 16 rows and of FP8's 128-row scale blocks.
constexpr std::int64_t kTaskRows = 128;

// Rows of one tensor that one thread checks and packs.
struct PackTask {
  const Binding* binding;
  const RowBlock* block;
  std::int64_t begin;  // within the block
  std::int64_t rows;
};

std::int64_t round_down(std::int64_t a, std::int64_t to) { return a / to * to; }

std::string tensor_name(const Checkpoint& checkpoint, const Binding& binding) {
  const TensorInfo& tensor = binding.main_tensor();
  return fmt::format("{}: tensor {}", printable(checkpoint.files()[tensor.file_idx].native(), 1024),
                     quote(tensor.name));
}

std::size_t source_bytes(const Binding& binding) {
  std::size_t bytes = 0;
  for (const TensorInfo* tensor : binding.tensors) bytes += tensor->data.size();
  return bytes;
}

// Runs the tasks of a batch on all threads and keeps the first error.
class BatchPacker {
 public:
  BatchPacker(const Checkpoint& checkpoint, kernels::Device& device)
      : checkpoint_(checkpoint), device_(device) {}

  Status pack(std::span<const Binding* const> batch) {
    tasks_.clear();
    for (const Binding* binding : batch) {
      if (!binding->spec->is_matrix()) {
        NIB_TRY_STATUS(read_parameter(*binding));
        continue;
      }
      if (binding->matrix.format == quant::WeightFormat::int8 ||
          binding->matrix.format == quant::WeightFormat::int4) {
        NIB_TRY_STATUS(quant::check_integer_layout(binding->matrix, tensor_name(checkpoint_, *binding)));
      }
      for (const RowBlock& block : binding->spec->blocks) {
        for (std::int64_t begin = 0; begin < block.rows; begin += kTaskRows) {
          tasks_.push_back({binding, &block, begin, std::min(kTaskRows, block.rows - begin)});
        }
      }
    }
    device_.exec().threads().parallel_for(
        static_cast<std::int64_t>(tasks_.size()),
        [this](std::int64_t i, int) { run(tasks_[static_cast<std::size_t>(i)]); });
    if (bad_ == nullptr) return {};
    quant::RowBuffer buffer;  // again, for the exact element
    return quant::check_finite(quant::canonical_rows(bad_->matrix, 0, bad_->matrix.n, buffer),
                               tensor_name(checkpoint_, *bad_));
  }

 private:
  void run(const PackTask& task) {
    const quant::MatrixView& matrix = task.binding->matrix;
    const std::int64_t src_row = task.block->src_row + task.begin;
    const std::int64_t begin =
        matrix.rows_per_scale() >= matrix.n ? src_row : round_down(src_row, matrix.rows_per_scale());
    thread_local quant::RowBuffer buffer;
    const quant::MatrixView window = quant::canonical_rows(matrix, begin, src_row + task.rows, buffer);
    if (!quant::check_finite(window, "").ok()) return report(*task.binding);
    device_.pack_rows(*task.block->weight, task.block->group, task.block->row + task.begin, window,
                      src_row - begin, task.rows);
  }

  void report(const Binding& binding) {
    const std::lock_guard lock(mutex_);
    if (bad_ == nullptr || &binding < bad_) bad_ = &binding;
  }

  Status read_parameter(const Binding& binding) {
    layers::Parameter& parameter = *binding.spec->vector;
    NIB_TRY(const std::vector<float> values,
            formats::read_vector(checkpoint_, binding.spec->name, {&parameter.size, 1}));
    parameter.values = Buffer(values.size() * sizeof(float));
    std::memcpy(parameter.values.data(), values.data(), values.size() * sizeof(float));
    return {};
  }

  const Checkpoint& checkpoint_;
  kernels::Device& device_;
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
std::size_t batch_end(const std::vector<const Binding*>& order, std::size_t begin) {
  std::size_t bytes = 0;
  std::size_t end = begin;
  while (end < order.size() && bytes < kBatchBytes) bytes += source_bytes(*order[end++]);
  return end;
}

template <class Fn>
void for_each_tensor(std::span<const Binding* const> batch, Fn&& fn) {
  for (const Binding* binding : batch) {
    for (const TensorInfo* tensor : binding->tensors) fn(*tensor);
  }
}

}  // namespace

Status allocate_weights(const std::vector<WeightSpec>& specs, kernels::Device& device) {
  const std::vector<WeightEntry> entries = distinct_weights(specs);
  std::size_t total = 0;
  for (const WeightEntry& entry : entries) total += device.weight_bytes(entry.weight->shape);
  for (const WeightEntry& entry : entries) {
    auto weight = device.allocate_weight(entry.weight->shape);
    if (!weight.ok()) {
      return std::move(weight).error().with_context(
          fmt::format("the packed weights take {:.1f} MiB in all", static_cast<double>(total) / (1 << 20)));
    }
    *entry.weight = std::move(weight).value();
  }
  return {};
}

Status stream_weights(const Checkpoint& checkpoint, const BoundCheckpoint& bound, kernels::Device& device,
                      const ProgressCallback& progress) {
  const std::vector<const Binding*> order = in_file_order(bound);
  std::uint64_t total = 0;
  for (const Binding* binding : order) total += source_bytes(*binding);
  const auto prefetch = [&](const TensorInfo& tensor) { checkpoint.prefetch(tensor); };
  const auto release = [&](const TensorInfo& tensor) { checkpoint.release(tensor); };

  BatchPacker packer(checkpoint, device);
  std::uint64_t done = 0;
  std::size_t end = batch_end(order, 0);
  for_each_tensor(std::span(order).subspan(0, end), prefetch);
  for (std::size_t begin = 0; begin < order.size();) {
    if (progress && !progress("load weights", done, total, "bytes")) {
      return Error{ErrorCode::interrupted, "loading was interrupted"};
    }
    const auto batch = std::span(order).subspan(begin, end - begin);
    const std::size_t next_end = batch_end(order, end);
    for_each_tensor(std::span(order).subspan(end, next_end - end), prefetch);
    NIB_TRY_STATUS(packer.pack(batch));
    for_each_tensor(batch, release);
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
