#include "models/quantize/layer_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "comm/communicator.h"
#include "core/check.h"
#include "core/quote.h"
#include "models/loader.h"

namespace nibble::models {

// One window as a sequence of its own in a cache of one page.
struct LayerRunner::Batch {
  std::int32_t length;
  std::array<std::int32_t, 2> cu_seqlens_q;
  std::int32_t page = 0;
  std::span<const TokenId> tokens;
  std::span<const std::int32_t> positions;

  [[nodiscard]] layers::ForwardBatch view() const {
    return {.token_ids = tokens,
            .positions = positions,
            .cu_seqlens_q = cu_seqlens_q,
            .seq_lens = {&length, 1},
            .page_tables = {&page, 1},
            .max_pages = 1,
            .slot_mapping = positions,
            .logit_rows = {},
            .num_prefill = 1,
            // W_UK and W_UV multiply the latent in this form only.
            .mla_mode = MlaMode::naive};
  }
};

namespace {

std::string shown(const formats::Checkpoint& checkpoint) {
  return printable(checkpoint.dir().native(), 1024);
}

Status check_text(const CheckpointShape& shape, std::span<const TokenId> tokens) {
  const ModelInfo& info = shape.model->info();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < info.vocab_size) continue;
    return bad_input(fmt::format("{}: calibration token {} is {}; expected one of {}",
                                 shown(shape.checkpoint), i, tokens[i], info.vocab_size));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<LayerRunner>> LayerRunner::create(const std::filesystem::path& dir,
                                                         std::vector<TokenId> tokens, std::int32_t window,
                                                         int num_threads) {
  NIB_TRY(CheckpointShape shape, shape_checkpoint(dir, {.cache_dtype = DType::f32, .max_model_len = window}));
  NIB_TRY_STATUS(check_text(shape, tokens));
  std::unique_ptr<LayerRunner> runner(new LayerRunner(std::move(shape)));
  NIB_TRY(runner->device_, kernels::make_device({.num_threads = num_threads}));
  runner->tokens_ = std::move(tokens);
  const std::int32_t positions = runner->shape_.model->info().max_position_embeddings;
  runner->window_ = std::min(static_cast<std::size_t>(std::min(window, positions)), runner->tokens_.size());
  runner->positions_.resize(runner->window_);
  std::iota(runner->positions_.begin(), runner->positions_.end(), 0);
  NIB_TRY_STATUS(runner->embed());
  runner->size_scratch();
  return runner;
}

LayerRunner::Batch LayerRunner::batch_at(std::size_t begin) const {
  const std::size_t length = std::min(window_, tokens_.size() - begin);
  return {.length = static_cast<std::int32_t>(length),
          .cu_seqlens_q = {0, static_cast<std::int32_t>(length)},
          .tokens = std::span(tokens_).subspan(begin, length),
          .positions = std::span(positions_).first(length)};
}

Status LayerRunner::embed() {
  const LoadableModel& model = *shape_.model;
  const auto row_bytes = static_cast<std::size_t>(model.hidden_size()) * sizeof(float);
  hidden_ = Buffer(tokens_.size() * row_bytes);
  once_ = Buffer(window_ * row_bytes);
  NIB_TRY_STATUS(load_where([](const std::string& name) { return name == "model.embed_tokens"; }));
  shape_.model->build_tables(device_->exec());
  Arena none;
  layers::Context ctx{
      .table = device_->table(), .exec = device_->exec(), .arena = none, .comm = comm::single()};
  for (std::size_t begin = 0; begin < tokens_.size(); begin += window_) {
    const Batch batch = batch_at(begin);
    model.embed(
        ctx, batch.view(),
        make_view(hidden_.data() + begin * row_bytes, DType::f32, {batch.length, model.hidden_size()}));
  }
  return {};
}

void LayerRunner::size_scratch() {
  const LoadableModel& model = *shape_.model;
  const layers::CacheSpec& spec = model.cache_specs().front();
  const auto slots = static_cast<std::int64_t>(window_);
  cache_ = Buffer(window_ * static_cast<std::size_t>(spec.bytes_per_entry()));
  cache_views_.assign(static_cast<std::size_t>(model.info().num_layers),
                      make_view(cache_.data(), spec.dtype, {slots, spec.width}));
  struct Nobody final : layers::InputSink {
    void record(const layers::LinearInput&) override {}
  } nobody;
  Arena counter;
  const kernels::KernelTable counting = kernels::counting_kernels();
  layers::Context ctx{.table = counting,
                      .exec = device_->exec(),
                      .arena = counter,
                      .comm = comm::single(),
                      .inputs = &nobody};
  const Batch batch = batch_at(0);
  const layers::CacheView cache{.tensors = cache_views_, .page_size = static_cast<std::int32_t>(window_)};
  for (std::int32_t i = 0; i < model.info().num_layers; ++i) {
    model.forward_layer(ctx, batch.view(), cache, i,
                        make_view(once_.data(), DType::f32, {batch.length, model.hidden_size()}));
  }
  arena_ = Arena(counter.peak());
}

// Whatever was loaded before is given back first.
Status LayerRunner::load_where(const std::function<bool(const std::string&)>& wanted) {
  std::vector<WeightSpec> specs;
  BoundCheckpoint bound;
  for (const Binding& binding : shape_.bound.bindings) {
    for (const RowBlock& block : binding.spec->blocks) {
      if (!block.weight->empty()) *block.weight = kernels::Weight{.shape = block.weight->shape};
    }
    if (!binding.spec->is_matrix()) binding.spec->vector->values = Buffer();
    if (!wanted(binding.spec->name)) continue;
    specs.push_back(*binding.spec);
    bound.bindings.push_back(binding);
  }
  NIB_TRY_STATUS(allocate_weights(specs, *device_));
  return stream_weights(shape_.checkpoint, bound, *device_, quant::ScaleRule::plain, {});
}

Status LayerRunner::load(std::int32_t layer_idx) {
  layer_idx_ = layer_idx;
  const std::string prefix = fmt::format("model.layers.{}.", layer_idx);
  return load_where([&](const std::string& name) { return name.starts_with(prefix); });
}

Status LayerRunner::run(bool keep, layers::InputSink* inputs,
                        const std::function<Status(std::size_t)>& on_window) {
  const LoadableModel& model = *shape_.model;
  const auto row_bytes = static_cast<std::size_t>(model.hidden_size()) * sizeof(float);
  const layers::CacheView cache{.tensors = cache_views_, .page_size = static_cast<std::int32_t>(window_)};
  layers::Context ctx{.table = device_->table(),
                      .exec = device_->exec(),
                      .arena = arena_,
                      .comm = comm::single(),
                      .inputs = inputs};
  for (std::size_t begin = 0; begin < tokens_.size(); begin += window_) {
    const Batch batch = batch_at(begin);
    std::byte* hidden = hidden_.data() + begin * row_bytes;
    if (!keep) {
      std::memcpy(once_.data(), hidden, static_cast<std::size_t>(batch.length) * row_bytes);
      hidden = once_.data();
    }
    arena_.reset();
    model.forward_layer(ctx, batch.view(), cache, layer_idx_,
                        make_view(hidden, DType::f32, {batch.length, model.hidden_size()}));
    NIB_TRY_STATUS(on_window(begin + static_cast<std::size_t>(batch.length)));
  }
  return {};
}

const Binding& LayerRunner::binding(const std::string& module) const {
  const auto& bindings = shape_.bound.bindings;
  const auto it = std::find_if(bindings.begin(), bindings.end(),
                               [&](const Binding& b) { return b.spec->name == module; });
  NIB_CHECK(it != bindings.end(), "no module {}", module);
  return *it;
}

}  // namespace nibble::models
