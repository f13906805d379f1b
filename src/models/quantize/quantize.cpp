// quantize_checkpoint of nibble/quantize.h: plan, then shard after shard.
#include "nibble/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <unordered_map>

#include "core/quote.h"
#include "formats/mapped_file.h"
#include "models/quantize/calibration.h"
#include "models/quantize/destination.h"
#include "models/quantize/plan.h"
#include "models/quantize/run_state.h"
#include "quant/encode/requantize.h"
#include "quant/int_layouts.h"

namespace nibble {
namespace {

using models::DestinationState;
using models::FinishedShard;
using models::QuantizeItem;
using models::QuantizePlan;
using models::QuantizeShard;
using Action = models::QuantizeItem::Action;

class ShardWriter {
 public:
  ShardWriter(const QuantizeOptions& options, const QuantizePlan& plan, const ProgressCallback& progress)
      : options_(options),
        plan_(plan),
        progress_(progress),
        threads_(options.num_threads > 0 ? options.num_threads : default_num_threads()) {
    for (const QuantizeItem& item : plan.items) {
      total_ += item.source_bytes();
      if (item.action == Action::gptq) layer_bytes_[item.layer_idx] += item.source_bytes();
    }
  }

  Result<FinishedShard> write(const QuantizeShard& shard) {
    std::vector<formats::TensorHeader> headers;
    for (const std::size_t i : shard.items) {
      const auto& outputs = plan_.items[i].outputs;
      headers.insert(headers.end(), outputs.begin(), outputs.end());
    }
    NIB_TRY(formats::SafetensorsWriter writer,
            formats::SafetensorsWriter::create(options_.destination / shard.file, std::move(headers)));
    FinishedShard finished{.file = shard.file, .bytes = writer.file_bytes(), .tensors = {}};
    std::size_t next = 0;  // index of the item's first tensor
    for (std::size_t i = 0; i < shard.items.size(); ++i) {
      const QuantizeItem& item = plan_.items[shard.items[i]];
      NIB_TRY_STATUS(report_progress());
      if (i + 1 < shard.items.size()) prefetch(plan_.items[shard.items[i + 1]]);
      NIB_TRY(QuantizedTensor row, write_item(item, writer, next));
      finished.tensors.push_back(std::move(row));
      next += item.outputs.size();
      skip(item);
    }
    NIB_TRY_STATUS(writer.finish());
    return finished;
  }

  // The item is done, here or in an earlier run.
  void skip(const QuantizeItem& item) {
    for (const formats::TensorInfo* tensor : item.tensors) formats::advise_done(tensor->data);
    done_ += item.source_bytes();
    if (item.action == Action::gptq) layer_bytes_[item.layer_idx] -= item.source_bytes();
  }

  Status report_progress(std::uint64_t ahead = 0) {
    shown_ = std::max(shown_, done_ + ahead);
    if (!progress_ || progress_("quantize", shown_, total_, "bytes")) return {};
    return Error{ErrorCode::interrupted,
                 fmt::format("{}: interrupted; the same command goes on with the next shard",
                             printable(options_.destination.native(), 1024))};
  }

 private:
  void prefetch(const QuantizeItem& item) const {
    for (const formats::TensorInfo* tensor : item.tensors) formats::advise_will_need(tensor->data);
  }

  // File and tensor, for messages.
  [[nodiscard]] std::string place(const formats::TensorInfo& tensor) const {
    const formats::Checkpoint& checkpoint = plan_.shape.checkpoint;
    return fmt::format("{}: tensor {}", printable(checkpoint.files()[tensor.file_idx].native(), 1024),
                       formats::tensor_label(tensor));
  }

  Result<QuantizedTensor> write_item(const QuantizeItem& item, formats::SafetensorsWriter& writer,
                                     std::size_t first) {
    QuantizedTensor row = describe(item);
    if (item.action != Action::encode && item.action != Action::gptq && item.matrix.codes != nullptr) {
      NIB_TRY_STATUS(quant::check_finite(item.matrix, place(*item.tensors.front())));
    }
    if (item.action == Action::copy) {
      NIB_TRY_STATUS(writer.write(first, item.tensors.front()->data));
      return row;
    }
    const auto write = [&](std::size_t index, std::span<const std::byte> bytes) {
      return writer.write(first + index, bytes);
    };
    if (item.action == Action::respell) {
      NIB_TRY_STATUS(formats::write_matrix(item.matrix, plan_.claim.method, write));
      return row;
    }
    if (item.action == Action::gptq) {
      NIB_TRY(const models::CalibratedMatrix made, calibrated(item));
      NIB_TRY_STATUS(formats::write_matrix(made.matrix.view(), plan_.claim.method, write));
      set_error(row, made.error);
      row.calibration_tokens = made.num_tokens;
      row.rounded_to_nearest = made.rounded_to_nearest;
      return row;
    }
    quant::EncodeOptions options = item.options;
    if (options.format == quant::WeightFormat::nvfp4) {
      NIB_TRY(options.global_scale, global_scale(item));
    }
    const std::string name = place(*item.tensors.front());
    auto encoded = quant::EncodedMatrix::allocate(item.matrix.n, item.matrix.k, options);
    if (!encoded.ok()) return std::move(encoded).error().with_context(name);
    NIB_TRY(const quant::EncodeError error, quant::requantize(item.matrix, *encoded, name, threads_));
    NIB_TRY_STATUS(formats::write_matrix(encoded->view(), plan_.claim.method, write));
    set_error(row, error);
    return row;
  }

  static void set_error(QuantizedTensor& row, const quant::EncodeError& error) {
    row.relative_rms_error = error.relative();
    row.max_error = static_cast<double>(error.max_error);
    row.sum_of_squares = error.squares;
  }

  // The first item of a layer has the whole layer done.
  Result<models::CalibratedMatrix> calibrated(const QuantizeItem& item) {
    if (calibration_ == nullptr) {
      NIB_TRY(calibration_, models::Calibration::create(options_, plan_));
    }
    if (item.layer_idx != calibrated_layer_) {
      const auto bytes = static_cast<double>(layer_bytes_[item.layer_idx]);
      NIB_TRY_STATUS(calibration_->run_layer(item.layer_idx, [&](std::uint64_t done, std::uint64_t total) {
        return report_progress(
            static_cast<std::uint64_t>(bytes * static_cast<double>(done) / static_cast<double>(total)));
      }));
      calibrated_layer_ = item.layer_idx;
    }
    return calibration_->take(item);
  }

  static QuantizedTensor describe(const QuantizeItem& item) {
    QuantizedTensor row{.name = item.name, .source_bytes = item.source_bytes(), .bytes = item.output_bytes()};
    if (item.action == Action::copy) {
      row.source_format = dtype_name(item.tensors.front()->dtype);
      row.format = row.source_format;
      row.num_parameters = 1;
      for (const std::int64_t dim : item.tensors.front()->shape) row.num_parameters *= dim;
      return row;
    }
    row.source_format = quant::format_name(item.matrix.format);
    row.format = item.action == Action::respell ? row.source_format : quant::format_name(item.options.format);
    row.num_parameters = item.matrix.n * item.matrix.k;
    return row;
  }

  Result<float> amax_of(const quant::MatrixView& matrix, const std::string& name) {
    if (const auto it = amax_.find(matrix.codes); it != amax_.end()) return it->second;
    NIB_TRY_STATUS(quant::check_integer_layout(matrix, name));
    return amax_[matrix.codes] = quant::abs_max(matrix, threads_);
  }

  // Values that are not finite are found, and named, when the matrix is encoded.
  Result<float> global_scale(const QuantizeItem& item) {
    NIB_TRY(float amax, amax_of(item.matrix, place(*item.tensors.front())));
    if (item.partner != nullptr) {
      NIB_TRY(const float other, amax_of(item.partner->matrix, place(item.partner->main_tensor())));
      amax = std::max(amax, other);
    }
    const float scale = quant::nvfp4_global_scale(std::isfinite(amax) ? amax : 0.0F);
    return plan_.claim.method == formats::QuantMethod::compressed_tensors ? formats::reciprocal_scale(scale)
                                                                          : scale;
  }

  const QuantizeOptions& options_;
  const QuantizePlan& plan_;
  const ProgressCallback& progress_;
  ThreadPool threads_;
  std::unordered_map<const std::byte*, float> amax_;  // by the codes of a matrix
  std::unique_ptr<models::Calibration> calibration_;  // of gptq, made when it is needed
  std::int32_t calibrated_layer_ = -1;
  std::unordered_map<std::int32_t, std::uint64_t> layer_bytes_;  // of gptq items to come
  std::uint64_t done_ = 0;
  std::uint64_t shown_ = 0;  // never goes back
  std::uint64_t total_ = 0;
};

// Layers whose inputs the text hardly had.
void note_rounded(QuantizeReport& report) {
  constexpr std::size_t kMaxNamed = 6;
  std::string names;
  std::size_t count = 0;
  for (const QuantizedTensor& tensor : report.tensors) {
    if (!tensor.rounded_to_nearest) continue;
    if (count < kMaxNamed)
      names += fmt::format("{}{} ({})", count == 0 ? "" : ", ", tensor.name, tensor.calibration_tokens);
    ++count;
  }
  if (count == 0) return;
  report.notes.push_back(
      fmt::format("{} matri{} rounded to nearest: the calibration text sent them too few tokens (under {} "
                  "per input): {}{}",
                  count, count == 1 ? "x was" : "ces were", models::kMinTokensPerInput, names,
                  count > kMaxNamed ? fmt::format(" and {} more", count - kMaxNamed) : ""));
}

void summarise(QuantizeReport& report) {
  double squared_error = 0;
  double squares = 0;
  for (const QuantizedTensor& tensor : report.tensors) {
    report.source_bytes += tensor.source_bytes;
    report.bytes += tensor.bytes;
    if (tensor.format == tensor.source_format) continue;
    ++report.num_quantized;
    squares += tensor.sum_of_squares;
    squared_error += tensor.relative_rms_error * tensor.relative_rms_error * tensor.sum_of_squares;
  }
  report.relative_rms_error = squares > 0 ? std::sqrt(squared_error / squares) : 0;
}

Result<QuantizeReport> run(const QuantizeOptions& options, const ProgressCallback& progress) {
  NIB_TRY(const QuantizePlan plan, models::plan_quantization(options));
  NIB_TRY(const DestinationState destination, models::open_destination(options));
  models::RunState state(options, plan);
  if (destination == DestinationState::resumable) NIB_TRY_STATUS(state.resume());
  if (options.overwrite) NIB_TRY_STATUS(models::clear_destination(options));

  QuantizeReport report;
  report.notes.assign(plan.shape.checkpoint.notes().begin(), plan.shape.checkpoint.notes().end());
  ShardWriter writer(options, plan, progress);
  for (const QuantizeShard& shard : plan.shards) {
    if (state.find(shard.file) == nullptr) {
      NIB_TRY(FinishedShard finished, writer.write(shard));
      NIB_TRY_STATUS(state.add(std::move(finished)));
    } else {
      for (const std::size_t i : shard.items) writer.skip(plan.items[i]);
      ++report.resumed_shards;
    }
    const std::vector<QuantizedTensor>& rows = state.find(shard.file)->tensors;
    report.tensors.insert(report.tensors.end(), rows.begin(), rows.end());
    report.files.push_back(shard.file);
  }
  NIB_TRY_STATUS(writer.report_progress());
  summarise(report);
  note_rounded(report);
  NIB_TRY_STATUS(models::write_small_files(options, plan));
  NIB_TRY_STATUS(models::write_report(options, report));
  std::error_code ignored;
  std::filesystem::remove(options.destination / models::kStateFile, ignored);
  return report;
}

}  // namespace

Result<QuantizeReport> quantize_checkpoint(const QuantizeOptions& options, const ProgressCallback& progress) {
  try {
    return run(options, progress);
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("{}: no memory to quantise it", printable(options.source.native(), 1024)));
  }
}

}  // namespace nibble
