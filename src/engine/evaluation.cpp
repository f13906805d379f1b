// nibble/evaluation.h: two models, or a model and a file, walked through the windows of a text together.
#include "nibble/evaluation.h"

#include <fmt/format.h>

#include <cmath>
#include <new>
#include <utility>
#include <vector>

#include "engine/kld.h"
#include "engine/perplexity.h"
#include "engine/reference_logits.h"

namespace nibble {
namespace {

template <class Fn>
auto guarded(Fn&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return out_of_memory("out of memory; use a smaller window (max_model_len)");
  } catch (const std::exception& e) {
    return runtime_error(e.what());
  }
}

// Runs every window: what on_prediction wants of the model, between two calls of `before_window`.
Status run_windows(Llm& model, const TextWindows& text, std::string_view phase,
                   const ProgressCallback& progress, const std::function<Status(std::size_t)>& before_window,
                   const PredictionCallback& on_prediction) {
  for (std::size_t i = 0; i < text.windows.size(); ++i) {
    NIB_TRY_STATUS(before_window(i));
    NIB_TRY_STATUS(model.predictions(text, i, on_prediction));
    if (progress && !progress(phase, text.windows[i].end, text.tokens.size(), "tokens")) {
      return Error{ErrorCode::interrupted, "interrupted"};
    }
  }
  return {};
}

Status check_same_text(const Llm& model, const TextWindows& text, const Llm& reference,
                       std::string_view source, const PerplexityOptions& options) {
  PerplexityOptions same = options;
  same.window = text.window;
  auto other = reference.text_windows(source, same);
  if (!other.ok()) return std::move(other).error().with_context("reference");
  return engine::check_same(engine::ReferenceKey::of(*other, reference.info().vocab_size),
                            engine::ReferenceKey::of(text, model.info().vocab_size));
}

Result<Divergence> diverge_from_model(Llm& model, Llm& reference, std::string_view source,
                                      const PerplexityOptions& options, const ProgressCallback& progress) {
  NIB_TRY(const TextWindows text, model.text_windows(source, options));
  NIB_TRY_STATUS(check_same_text(model, text, reference, source, options));
  const auto width = static_cast<std::size_t>(model.info().vocab_size);
  std::vector<float> rows;  // the reference's, of one window
  std::size_t next = 0;
  const auto run_reference = [&](std::size_t window) -> Status {
    rows.clear();
    next = 0;
    return reference.predictions(text, window, [&](TokenId, std::span<const float> row) -> Status {
      rows.insert(rows.end(), row.begin(), row.end());
      return {};
    });
  };
  engine::DivergenceSum sum;
  const auto compare = [&](TokenId target, std::span<const float> logits) -> Status {
    const std::span<const float> row = std::span<const float>(rows).subspan(next++ * width, width);
    sum.add(target,
            {.logits = row, .nll = engine::negative_log_likelihood(row, target), .top1 = engine::top1(row)},
            logits);
    return {};
  };
  NIB_TRY_STATUS(run_windows(model, text, "kl divergence", progress, run_reference, compare));
  return std::move(sum).finish();
}

Result<Divergence> diverge_from_file(Llm& model, const std::filesystem::path& file, std::string_view source,
                                     const PerplexityOptions& options, const ProgressCallback& progress) {
  NIB_TRY(engine::ReferenceReader reference, engine::ReferenceReader::open(file));
  NIB_TRY(const TextWindows text, model.text_windows(source, options));
  Status same = engine::check_same(reference.key(), engine::ReferenceKey::of(text, model.info().vocab_size));
  if (!same.ok()) return std::move(same).error().with_context(file.string());
  engine::DivergenceSum sum;
  const auto compare = [&](TokenId target, std::span<const float> logits) -> Status {
    NIB_TRY(const engine::ReferenceReader::Row row, reference.next());
    sum.add(target, {.logits = row.logits, .nll = row.nll, .top1 = row.top1}, logits);
    return {};
  };
  const auto nothing = [](std::size_t) { return Status(); };
  NIB_TRY_STATUS(run_windows(model, text, "kl divergence", progress, nothing, compare));
  return std::move(sum).finish();
}

Result<SavedReference> save(Llm& model, std::string_view source, const PerplexityOptions& options,
                            const std::filesystem::path& file, const ProgressCallback& progress) {
  NIB_TRY(const TextWindows text, model.text_windows(source, options));
  NIB_TRY(const std::unique_ptr<engine::ReferenceWriter> writer,
          engine::ReferenceWriter::create(file, engine::ReferenceKey::of(text, model.info().vocab_size)));
  SavedReference saved{.window = text.window, .stride = text.stride};
  const auto write = [&](TokenId target, std::span<const float> logits) -> Status {
    const double nll = engine::negative_log_likelihood(logits, target);
    saved.nll += nll;
    ++saved.tokens;
    return writer->add(logits, nll);
  };
  const auto nothing = [](std::size_t) { return Status(); };
  NIB_TRY_STATUS(run_windows(model, text, "reference", progress, nothing, write));
  NIB_TRY_STATUS(writer->finish());
  saved.perplexity = std::exp(saved.nll / static_cast<double>(saved.tokens));
  std::error_code ignored;
  saved.file_bytes = std::filesystem::file_size(file, ignored);
  return saved;
}

}  // namespace

Result<Divergence> kl_divergence(Llm& model, Llm& reference, std::string_view text,
                                 const PerplexityOptions& options, const ProgressCallback& progress) {
  return guarded([&] { return diverge_from_model(model, reference, text, options, progress); });
}

Result<Divergence> kl_divergence(Llm& model, const std::filesystem::path& reference, std::string_view text,
                                 const PerplexityOptions& options, const ProgressCallback& progress) {
  return guarded([&] { return diverge_from_file(model, reference, text, options, progress); });
}

Result<SavedReference> save_reference(Llm& model, std::string_view text, const PerplexityOptions& options,
                                      const std::filesystem::path& file, const ProgressCallback& progress) {
  return guarded([&] { return save(model, text, options, file, progress); });
}

}  // namespace nibble
