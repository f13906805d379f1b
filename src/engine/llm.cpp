// Llm: options, device, model, tokenizer and engine put together. Where exceptions end: what is thrown
// below comes out as an Error.
#include "nibble/llm.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <numbers>

#include "core/out_of_memory.h"
#include "engine/engine.h"
#include "engine/host_memory.h"
#include "engine/options.h"
#include "engine/perplexity.h"
#include "engine/replies.h"
#include "engine/score.h"
#include "engine/sizing.h"
#include "kernels/device.h"
#include "models/registry.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

// Runs `fn`, turning what it throws into an Error.
template <class Fn>
auto guarded(Fn&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const std::bad_alloc& e) {
    return no_memory("out of memory; use a smaller context, batch or model", e);
  } catch (const std::exception& e) {
    return runtime_error(e.what());
  }
}

Status check_tokens(std::span<const TokenId> tokens, std::int32_t vocab_size, std::int32_t max_model_len) {
  if (tokens.empty()) return bad_input("no tokens given: at least one is needed");
  if (tokens.size() > static_cast<std::size_t>(max_model_len)) {
    return bad_input(
        fmt::format("{} tokens are over the context of {} (max_model_len)", tokens.size(), max_model_len));
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocab_size) continue;
    return bad_input(
        fmt::format("token {} is id {}, outside the vocabulary [0, {})", i, tokens[i], vocab_size));
  }
  return {};
}

Result<std::optional<Tokenizer>> load_tokenizer(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (!std::filesystem::exists(dir / "tokenizer.json", ignored)) return std::optional<Tokenizer>();
  NIB_TRY(Tokenizer tokenizer, Tokenizer::load(dir));
  return std::optional<Tokenizer>(std::move(tokenizer));
}

Result<engine::Windows> perplexity_windows(const PerplexityOptions& options, std::int32_t max_model_len,
                                           std::optional<TokenId> bos) {
  engine::Windows w{.window = options.window == 0 ? max_model_len : options.window, .stride = options.stride};
  if (w.window < 2 || w.window > max_model_len) {
    return bad_input(
        fmt::format("the window is {} tokens, must be from 2 to max_model_len {}", w.window, max_model_len));
  }
  if (options.prepend_bos) {
    if (!bos)
      return bad_input("prepend_bos: the model and its tokenizer name no beginning-of-sequence token");
    w.bos = bos;
  }
  if (w.stride == 0) w.stride = w.text_tokens();
  if (w.stride < 1 || w.stride > w.text_tokens()) {
    return bad_input(fmt::format("the stride is {} tokens, must be from 1 to the {} text tokens of a window",
                                 w.stride, w.text_tokens()));
  }
  return w;
}

// Whether text_windows() of such a model could have made it.
bool is_window_of(const LlmInfo& info, const TextWindows& text, std::size_t window) {
  if (window >= text.windows.size()) return false;
  const auto [begin, end, first] = text.windows[window];
  if (begin > first || first > end || end > text.tokens.size()) return false;
  const std::size_t num_bos = text.bos ? 1 : 0;
  if (first < end && first + num_bos == begin) return false;
  if (end - begin + num_bos > static_cast<std::size_t>(info.max_model_len)) return false;
  const auto known = [&](TokenId id) { return id >= 0 && id < info.vocab_size; };
  const std::span<const TokenId> tokens = std::span(text.tokens).subspan(begin, end - begin);
  return known(text.bos.value_or(0)) && std::all_of(tokens.begin(), tokens.end(), known);
}

}  // namespace

struct Llm::Impl {
  // In this order: each uses those before it.
  std::unique_ptr<kernels::Device> device;
  std::unique_ptr<models::Model> model;
  std::optional<Tokenizer> tokenizer;
  std::unique_ptr<engine::Engine> engine;
  LlmInfo info;
  std::atomic<bool> stop{false};

  [[nodiscard]] Status check_stop() const {
    if (stop.load(std::memory_order_relaxed)) return Error{ErrorCode::interrupted, "interrupted"};
    return {};
  }

  [[nodiscard]] LlmInfo describe(const engine::EngineSizes& sizes, Clock::time_point start) const {
    const models::ModelInfo& m = model->info();
    return {.model_type = m.model_type,
            .device = device->description(),
            .formats = m.formats,
            .num_parameters = m.num_parameters,
            .weight_bytes = m.weight_bytes,
            .cache_bytes = engine->cache_bytes(),
            .num_layers = m.num_layers,
            .vocab_size = m.vocab_size,
            .max_model_len = sizes.config.runner.max_model_len,
            .load_s = std::chrono::duration<double>(Clock::now() - start).count(),
            .notes = m.notes};
  }

  static Result<std::unique_ptr<Impl>> load(const LlmOptions& options, const ProgressCallback& progress);
  Result<std::vector<float>> logits(const LogitsRequest& request);
  [[nodiscard]] Result<TextWindows> text_windows(std::string_view text,
                                                 const PerplexityOptions& options) const;
  Status predictions(const TextWindows& text, std::size_t window, const PredictionCallback& on_prediction);
  Result<Perplexity> perplexity(std::string_view text, const PerplexityOptions& options,
                                const ProgressCallback& progress);
};

Result<std::unique_ptr<Llm::Impl>> Llm::Impl::load(const LlmOptions& options,
                                                   const ProgressCallback& progress) {
  const Clock::time_point start = Clock::now();
  auto impl = std::make_unique<Impl>();
  NIB_TRY(engine::ParsedOptions parsed, engine::parse_options(options));
  NIB_TRY(impl->device, kernels::make_device(parsed.device));
  const engine::Backend backend{.table = impl->device->table(), .exec = impl->device->exec()};

  // Everything that can be wrong or too large is found from the headers, before weights are read.
  NIB_TRY(const models::ModelPlan plan, models::plan_model(parsed.load, *impl->device));
  NIB_TRY(impl->tokenizer, load_tokenizer(parsed.tokenizer_dir));
  const std::uint64_t available = engine::available_memory(*impl->device);
  if (plan.weight_bytes >= available) {
    return out_of_memory(fmt::format(
        "the weights need {} bytes of memory, {} are available; use a smaller model or a format of "
        "fewer bits (--quantization)",
        plan.weight_bytes, available));
  }
  NIB_TRY(const engine::EngineSizes sizes,
          engine::choose_sizes(*plan.shape, backend, parsed.size, available - plan.weight_bytes));

  parsed.load.max_model_len = sizes.config.runner.max_model_len;
  NIB_TRY(impl->model, models::load_model(parsed.load, *impl->device, progress));
  NIB_TRY(impl->engine, engine::Engine::create(*impl->model, backend, sizes.config));
  impl->info = impl->describe(sizes, start);
  return impl;
}

Result<std::vector<float>> Llm::Impl::logits(const LogitsRequest& request) {
  NIB_TRY_STATUS(check_tokens(request.tokens, info.vocab_size, info.max_model_len));
  if (request.prefill_chunk < 0) {
    return bad_input(
        fmt::format("prefill_chunk is {}, must be at least 0 (0 = all at once)", request.prefill_chunk));
  }
  std::vector<engine::KnownSequence> sequences{
      {.tokens = request.tokens, .prefill_chunk = request.prefill_chunk, .decode_from = request.decode_from}};
  if (!request.batch_with.empty()) {
    Status valid = check_tokens(request.batch_with, info.vocab_size, info.max_model_len);
    if (!valid.ok()) return std::move(valid).error().with_context("second sequence");
    sequences.push_back({.tokens = request.batch_with,
                         .prefill_chunk = request.prefill_chunk,
                         .decode_from = request.decode_from});
  }
  std::vector<float> rows;
  rows.reserve(request.tokens.size() * static_cast<std::size_t>(info.vocab_size));
  const auto keep = [&](std::size_t seq_idx, std::int32_t, std::span<const float> row) -> Status {
    if (seq_idx == 0) rows.insert(rows.end(), row.begin(), row.end());
    return check_stop();
  };
  NIB_TRY_STATUS(engine::score(engine->runner(), engine->pool(), info.vocab_size, sequences, keep));
  return rows;
}

Result<TextWindows> Llm::Impl::text_windows(std::string_view text, const PerplexityOptions& options) const {
  if (!tokenizer)
    return bad_input("perplexity needs a tokenizer, and the model directory has no tokenizer.json");
  const std::optional<TokenId> bos = tokenizer->bos_id() ? tokenizer->bos_id() : model->info().bos_token_id;
  NIB_TRY(const engine::Windows windows, perplexity_windows(options, info.max_model_len, bos));
  NIB_TRY(std::vector<TokenId> tokens, tokenizer->encode(text));
  if (options.num_tokens < 0) {
    return bad_input(fmt::format("num_tokens is {}, must be at least 0 (0 = all)", options.num_tokens));
  }
  if (options.num_tokens > 0) {
    tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(options.num_tokens)));
  }
  const std::size_t min_tokens = windows.bos ? 1 : 2;
  if (tokens.size() < min_tokens) {
    return bad_input(
        fmt::format("the text has {} tokens, perplexity needs at least {}", tokens.size(), min_tokens));
  }
  for (const TokenId id : tokens) NIB_TRY_STATUS(check_tokens({&id, 1}, info.vocab_size, info.max_model_len));
  return engine::cut_windows(std::move(tokens), windows);
}

Status Llm::Impl::predictions(const TextWindows& text, std::size_t window,
                              const PredictionCallback& on_prediction) {
  if (!is_window_of(info, text, window)) {
    return bad_input(fmt::format("window {} of {} of {} tokens is not one of this model's", window,
                                 text.windows.size(), text.window));
  }
  NIB_TRY_STATUS(check_stop());
  return engine::score_window(engine->runner(), engine->pool(), info.vocab_size, text, window, on_prediction);
}

Result<Perplexity> Llm::Impl::perplexity(std::string_view text, const PerplexityOptions& options,
                                         const ProgressCallback& progress) {
  NIB_TRY(const TextWindows windows, text_windows(text, options));
  const auto on_window = [&](std::size_t done) -> Status {
    NIB_TRY_STATUS(check_stop());
    if (!progress || progress("perplexity", done, windows.tokens.size(), "tokens")) return {};
    return Error{ErrorCode::interrupted, "interrupted"};
  };
  NIB_TRY(const engine::TokenNll total,
          engine::token_nll(engine->runner(), engine->pool(), info.vocab_size, windows, on_window));
  std::size_t bytes = text.size();
  if (options.num_tokens > 0) {
    NIB_TRY(const std::string evaluated, tokenizer->decode(windows.tokens, false));
    bytes = evaluated.size();
  }
  return Perplexity{.perplexity = std::exp(total.nll / static_cast<double>(total.tokens)),
                    .nll = total.nll,
                    .tokens = total.tokens,
                    .bytes = static_cast<std::int64_t>(bytes),
                    .bits_per_byte = total.nll / std::numbers::ln2 / static_cast<double>(bytes)};
}

Llm::Llm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Llm::~Llm() = default;

Result<std::unique_ptr<Llm>> Llm::load(const LlmOptions& options, const ProgressCallback& progress) {
  return guarded([&]() -> Result<std::unique_ptr<Llm>> {
    NIB_TRY(std::unique_ptr<Impl> impl, Impl::load(options, progress));
    return std::unique_ptr<Llm>(new Llm(std::move(impl)));
  });
}

const LlmInfo& Llm::info() const { return impl_->info; }

const Tokenizer* Llm::tokenizer() const { return impl_->tokenizer ? &*impl_->tokenizer : nullptr; }

Result<Generation> Llm::generate(const GenerateRequest& request, const TextCallback& on_text) {
  return guarded([&]() -> Result<Generation> {
    NIB_TRY(std::vector<Generation> all,
            engine::generate_replies(*impl_->engine, tokenizer(), {&request, 1}, on_text, impl_->stop));
    all[0].timings.load_s = impl_->info.load_s;
    return std::move(all[0]);
  });
}

Result<std::vector<Generation>> Llm::generate_batch(std::span<const GenerateRequest> requests) {
  return guarded([&]() -> Result<std::vector<Generation>> {
    NIB_TRY(std::vector<Generation> all,
            engine::generate_replies(*impl_->engine, tokenizer(), requests, {}, impl_->stop));
    for (Generation& each : all) each.timings.load_s = impl_->info.load_s;
    return all;
  });
}

Result<std::vector<float>> Llm::logits(const LogitsRequest& request) {
  return guarded([&] { return impl_->logits(request); });
}

Result<Perplexity> Llm::perplexity(std::string_view text, const PerplexityOptions& options,
                                   const ProgressCallback& progress) {
  return guarded([&] { return impl_->perplexity(text, options, progress); });
}

Result<TextWindows> Llm::text_windows(std::string_view text, const PerplexityOptions& options) const {
  return guarded([&] { return impl_->text_windows(text, options); });
}

Status Llm::predictions(const TextWindows& text, std::size_t window,
                        const PredictionCallback& on_prediction) {
  return guarded([&] { return impl_->predictions(text, window, on_prediction); });
}

void Llm::request_stop() noexcept { impl_->stop.store(true, std::memory_order_relaxed); }
void Llm::clear_stop() noexcept { impl_->stop.store(false, std::memory_order_relaxed); }

StepCost Llm::decode_cost(std::int32_t batch, std::int32_t context) const {
  const models::Model& model = *impl_->model;
  // The last token of a prefill does what a decode step at that context does.
  const double flops = model.prefill_flops(std::int64_t{context} + 1) - model.prefill_flops(context);
  return {.bytes_read = model.active_bytes(batch, context).total(), .flops = batch * flops};
}

StepCost Llm::prefill_cost(std::int32_t tokens) const {
  return {.bytes_read = impl_->model->active_bytes(tokens, 0).weights,
          .flops = impl_->model->prefill_flops(tokens)};
}

EngineStats Llm::stats() const { return impl_->engine->stats(); }

}  // namespace nibble
