// nibble eval ppl: token-level perplexity of a text.

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/eval_text.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/llm.h"

namespace nibble::cli {

namespace {

class EvalPplCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    add_text_options(options, text_, "UTF-8 text (- for standard input)");
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(const std::string text, read_text(text_));
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    NIB_TRY(const Perplexity result, measure(*llm, text));
    return common_.json ? print_json(result) : print_text(result);
  }

 private:
  Result<Perplexity> measure(Llm& llm, const std::string& text) const {
    const InterruptScope scope(&llm);
    Progress progress(common_.progress);
    auto result = llm.perplexity(text, text_.windows(), progress.callback());
    progress.clear();
    if (interrupted()) return interrupted_error();
    return result;
  }

  static Status print_text(const Perplexity& p) {
    return print(
        fmt::format("perplexity {:.4f}  ({} tokens, {:.4f} nats per token, {} bytes, {:.4f} bits per byte)\n",
                    p.perplexity, p.tokens, p.nll / static_cast<double>(p.tokens), p.bytes, p.bits_per_byte));
  }

  static Status print_json(const Perplexity& p) {
    JsonWriter json;
    json.begin_object().field("perplexity", p.perplexity).field("nll", p.nll).field("tokens", p.tokens);
    json.field("bytes", p.bytes).field("bits_per_byte", p.bits_per_byte);
    return print_line(json.end_object().text());
  }

  ModelOptions model_;
  CommonOptions common_;
  TextOptions text_;
};

}  // namespace

std::unique_ptr<Command> make_eval_ppl() { return std::make_unique<EvalPplCommand>(); }

}  // namespace nibble::cli
