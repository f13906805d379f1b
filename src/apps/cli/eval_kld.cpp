// nibble eval kld: KL divergence of a model from a reference model or a saved run of one.

#include <fmt/format.h>

#include <filesystem>

#include "cli/command.h"
#include "cli/eval_text.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/evaluation.h"

namespace nibble::cli {

namespace {

class EvalKldCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    add_text_options(options, text_, "UTF-8 text (- for standard input)");
    options.heading("Reference");
    options.add_path("--reference", reference_, "Model directory, or a file made by --save-reference");
    options.add_text("--reference-quantization", reference_quantization_, "SCHEME",
                     "Scheme of a reference directory's projections [auto]");
    options.add_path(
        "--save-reference", save_,
        "Write the model's own predictions here (2 bytes x vocabulary per token) and compare nothing");
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    if (reference_.empty() == save_.empty()) {
      return bad_input(
          "one of --reference (a model directory or a saved file) and --save-reference (a file to write) is "
          "needed");
    }
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(const std::string text, read_text(text_));
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    return save_.empty() ? compare(*llm, llm_options, text) : save(*llm, text);
  }

 private:
  Status save(Llm& llm, const std::string& text) const {
    const InterruptScope scope(&llm);
    Progress progress(common_.progress);
    const auto saved = save_reference(llm, text, text_.windows(), save_, progress.callback());
    progress.clear();
    if (interrupted()) return interrupted_error();
    if (!saved.ok()) return saved.error();
    if (!common_.json) {
      return print(fmt::format("{}: {} tokens, perplexity {:.4f}, {}\n", save_.string(), saved->tokens,
                               saved->perplexity, format_bytes(saved->file_bytes)));
    }
    JsonWriter json;
    json.begin_object().field("file", save_.string()).field("tokens", saved->tokens);
    json.field("nll", saved->nll).field("perplexity", saved->perplexity).field("bytes", saved->file_bytes);
    return print_line(json.end_object().text());
  }

  Status compare(Llm& llm, const LlmOptions& options, const std::string& text) const {
    std::error_code ignored;
    std::unique_ptr<Llm> reference;
    if (std::filesystem::is_directory(reference_, ignored)) {
      NIB_TRY(reference, load_reference(llm, options));
    }
    const InterruptScope scope(&llm);
    Progress progress(common_.progress);
    const auto result = reference
                            ? kl_divergence(llm, *reference, text, text_.windows(), progress.callback())
                            : kl_divergence(llm, reference_, text, text_.windows(), progress.callback());
    progress.clear();
    if (interrupted()) return interrupted_error();
    if (!result.ok()) return result.error();
    return common_.json ? print_json(*result) : print_text(*result);
  }

  // As the model is run, but with its own weights and scheme, and its cache unquantised.
  [[nodiscard]] Result<std::unique_ptr<Llm>> load_reference(const Llm& llm, const LlmOptions& options) const {
    LlmOptions other = options;
    other.model = reference_;
    other.config.clear();
    other.quantization = reference_quantization_;
    for (std::string* kind : {&other.attn_quantization, &other.mlp_quantization, &other.experts_quantization,
                              &other.other_quantization}) {
      kind->clear();
    }
    other.quantization_exclude.clear();
    other.kv_cache_dtype = "auto";
    other.max_model_len = llm.info().max_model_len;
    auto loaded = load_model(other, common_);
    if (!loaded.ok() && !loaded.error().message.empty()) {
      return std::move(loaded).error().with_context("reference");
    }
    return loaded;
  }

  static Status print_text(const Divergence& d) {
    return print(
        fmt::format("KL divergence {:.6f}  (nats; median {:.6f}, 99 % {:.6f}, max {:.6f})\n"
                    "top-1 agreement {:.2f} %\n"
                    "perplexity {:.4f}, reference {:.4f}  ({} tokens)\n",
                    d.mean, d.median, d.p99, d.max, 100 * d.top1_agreement, d.perplexity,
                    d.reference_perplexity, d.tokens));
  }

  static Status print_json(const Divergence& d) {
    JsonWriter json;
    json.begin_object().key("kld").begin_object().field("mean", d.mean).field("median", d.median);
    json.field("p99", d.p99).field("max", d.max).end_object();
    json.field("top1_agreement", d.top1_agreement).field("perplexity", d.perplexity).field("nll", d.nll);
    json.field("reference_perplexity", d.reference_perplexity).field("reference_nll", d.reference_nll);
    return print_line(json.field("tokens", d.tokens).end_object().text());
  }

  ModelOptions model_;
  CommonOptions common_;
  TextOptions text_;
  std::filesystem::path reference_;
  std::string reference_quantization_ = "auto";
  std::filesystem::path save_;
};

}  // namespace

std::unique_ptr<Command> make_eval_kld() { return std::make_unique<EvalKldCommand>(); }

}  // namespace nibble::cli
