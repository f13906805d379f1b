#include "models/quantize/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "quant/gptq/hessian.h"

namespace nibble::models {
namespace {

constexpr std::int64_t kAllGroups = -1;

std::size_t hessian_bytes(std::int64_t k) { return static_cast<std::size_t>(k * k) * sizeof(float); }

}  // namespace

// A matrix to be quantised, and how to recognise its inputs.
struct Calibration::Target {
  const QuantizeItem* item;
  const Binding* source;
  const kernels::Weight* weight;
  std::int64_t group;

  [[nodiscard]] std::pair<const kernels::Weight*, std::int64_t> key() const { return {weight, group}; }
};

// Adds up the Hessians of some targets; those that share an input share one.
class Calibration::Observer final : public layers::InputSink {
 public:
  Observer(std::span<const Target> targets, ThreadPool& threads) : threads_(threads) {
    for (const Target& target : targets) hessian_of_.emplace(target.key(), std::nullopt);
  }

  void record(const layers::LinearInput& input) override {
    const std::int64_t group = input.rows.empty() ? kAllGroups : input.group;
    std::optional<std::size_t> hessian;
    for (const kernels::Weight* weight : input.weights) {
      const auto it = hessian_of_.find({weight, group});
      if (it == hessian_of_.end() || !status_.ok()) continue;
      if (!it->second) {
        if (!hessian) hessian = allocate(input.x.dim(1));
        it->second = hessian;
      }
      hessian = it->second;
    }
    if (hessian && status_.ok()) add(hessians_[*hessian], input);
  }

  [[nodiscard]] const Status& status() const { return status_; }
  // None if the layer never saw an input.
  [[nodiscard]] std::optional<std::size_t> hessian_of(const Target& target) const {
    return hessian_of_.at(target.key());
  }
  [[nodiscard]] const quant::HessianAccumulator& hessian(std::size_t i) const { return hessians_[i]; }

 private:
  std::optional<std::size_t> allocate(std::int64_t k) {
    auto made = quant::HessianAccumulator::allocate(k);
    if (!made.ok()) {
      status_ = std::move(made).error();
      return std::nullopt;
    }
    hessians_.push_back(std::move(made).value());
    return hessians_.size() - 1;
  }

  void add(quant::HessianAccumulator& hessian, const layers::LinearInput& input) {
    const std::int64_t k = input.x.dim(1);
    const bool all = input.rows.empty();
    const std::int64_t m = all ? input.x.dim(0) : static_cast<std::int64_t>(input.rows.size());
    rows_.resize(static_cast<std::size_t>(m * k));
    for (std::int64_t i = 0; i < m; ++i) {
      const std::int64_t row = all ? i : input.rows[static_cast<std::size_t>(i)];
      std::memcpy(rows_.data() + i * k, input.x.f32() + row * input.x.stride[0],
                  static_cast<std::size_t>(k) * sizeof(float));
    }
    hessian.add(rows_.data(), m, threads_);
  }

  ThreadPool& threads_;
  std::map<std::pair<const kernels::Weight*, std::int64_t>, std::optional<std::size_t>> hessian_of_;
  std::vector<quant::HessianAccumulator> hessians_;
  std::vector<float> rows_;
  Status status_;
};

Result<std::unique_ptr<Calibration>> Calibration::create(const QuantizeOptions& options,
                                                         const QuantizePlan& plan) {
  std::unique_ptr<Calibration> calibration(new Calibration(options, plan));
  NIB_TRY(calibration->runner_, LayerRunner::create(options.source, options.gptq.calibration,
                                                    options.gptq.window, options.num_threads));
  return calibration;
}

std::vector<Calibration::Target> Calibration::targets_of(std::int32_t layer_idx) const {
  std::vector<Target> targets;
  for (const QuantizeItem& item : plan_.items) {
    if (item.action != QuantizeItem::Action::gptq || item.layer_idx != layer_idx) continue;
    const Binding& source = runner_->binding(item.name);
    const RowBlock& block = source.spec->blocks.front();
    targets.push_back({.item = &item,
                       .source = &source,
                       .weight = block.weight,
                       .group = source.spec->kind == LayerKind::experts ? block.group : kAllGroups});
  }
  return targets;
}

Status Calibration::run_layer(std::int32_t layer_idx, const OnStep& on_step) {
  const std::uint64_t tokens = runner_->num_tokens();
  made_.clear();
  for (std::int32_t i = runner_->next_layer(); i < layer_idx; ++i) {
    NIB_TRY_STATUS(runner_->load(i));
    NIB_TRY_STATUS(runner_->run(true, nullptr, [&](std::size_t) { return on_step(0, tokens); }));
  }
  NIB_TRY_STATUS(runner_->load(layer_idx));
  std::vector<Target> list = targets_of(layer_idx);
  const std::span<Target> targets(list);
  // A token through the layer counts as much as a token's share of what its matrices take afterwards.
  const std::uint64_t total = 2 * tokens * targets.size();
  for (std::size_t begin = 0; begin < targets.size();) {
    const std::size_t end = batch_end(targets, begin);
    Observer observer(targets.subspan(begin, end - begin), runner_->threads());
    const auto done = [&](std::size_t i, std::size_t of_batch) {
      return on_step(2 * tokens * i + of_batch * (end - begin), total);
    };
    NIB_TRY_STATUS(runner_->run(end == targets.size(), &observer,
                                [&](std::size_t window_end) { return done(begin, window_end); }));
    NIB_TRY_STATUS(observer.status());
    NIB_TRY_STATUS(quantize(observer, targets.subspan(begin, end - begin),
                            [&](std::size_t i) { return done(begin, tokens + tokens * i / (end - begin)); }));
    begin = end;
  }
  return {};
}

std::size_t Calibration::batch_end(std::span<const Target> targets, std::size_t begin) const {
  std::size_t end = begin;
  std::uint64_t bytes = 0;
  while (end < targets.size()) {
    bytes += hessian_bytes(targets[end].source->spec->k);
    if (end > begin && bytes > options_.gptq.max_hessian_bytes) break;
    ++end;
  }
  return end;
}

Status Calibration::quantize(const Observer& observer, std::span<Target> targets,
                             const std::function<Status(std::size_t)>& on_matrix) {
  // Matrices that share a Hessian one after the other: it is factored once.
  std::stable_sort(targets.begin(), targets.end(), [&](const Target& a, const Target& b) {
    return observer.hessian_of(a) < observer.hessian_of(b);
  });
  std::optional<std::size_t> factored;
  std::optional<quant::HessianFactor> factor;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Target& target = targets[i];
    const std::optional<std::size_t> index = observer.hessian_of(target);
    const std::int64_t k = target.source->spec->k;
    const std::int64_t num_tokens = index ? observer.hessian(*index).num_rows() : 0;
    const bool enough = static_cast<double>(num_tokens) >= kMinTokensPerInput * static_cast<double>(k);
    if (enough && factored != index) {
      auto made = quant::HessianFactor::compute(
          observer.hessian(*index).upper(), k,
          {.damp_percent = options_.gptq.damp_percent, .act_order = options_.gptq.act_order},
          runner_->threads());
      if (!made.ok()) return std::move(made).error().with_context("inputs of " + quote(target.item->name));
      factor.emplace(std::move(made).value());
      factored = index;
    }
    NIB_TRY(CalibratedMatrix matrix, quantize_matrix(target, enough ? &*factor : nullptr));
    matrix.num_tokens = num_tokens;
    made_.emplace(target.item->name, std::move(matrix));
    NIB_TRY_STATUS(on_matrix(i + 1));
  }
  return {};
}

Result<CalibratedMatrix> Calibration::quantize_matrix(const Target& target,
                                                      const quant::HessianFactor* factor) {
  ThreadPool& threads = runner_->threads();
  const quant::EncodeOptions& options = target.item->options;
  const quant::MatrixView& source = target.source->matrix;
  if (factor == nullptr) {
    NIB_TRY(quant::EncodedMatrix nearest, quant::EncodedMatrix::allocate(source.n, source.k, options));
    NIB_TRY(const quant::EncodeError error,
            quant::requantize(source, nearest, quote(target.item->name), threads));
    return CalibratedMatrix{
        .matrix = {.matrix = std::move(nearest), .g_idx = {}}, .error = error, .rounded_to_nearest = true};
  }
  const std::vector<float> weights = quant::decode_matrix(source, threads);
  NIB_TRY(quant::GptqMatrix solved, quant::gptq_quantize(weights.data(), source.n, *factor,
                                                         {.format = options.format,
                                                          .group_k = options.group_k,
                                                          .zero_points = options.zero_points,
                                                          .scales = options.scales},
                                                         threads));
  const quant::EncodeError error = quant::measure_error(source, solved.view(), threads);
  return CalibratedMatrix{.matrix = std::move(solved), .error = error};
}

CalibratedMatrix Calibration::take(const QuantizeItem& item) {
  const auto it = made_.find(item.name);
  NIB_CHECK(it != made_.end(), "{} was not calibrated", item.name);
  CalibratedMatrix matrix = std::move(it->second);
  made_.erase(it);
  return matrix;
}

}  // namespace nibble::models
