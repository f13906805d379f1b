// nibble eval ppl: token-level perplexity of a text.

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/llm.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{256} << 20;

class EvalPplCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    options.heading("Text");
    options.add_path("--text", text_file_, "UTF-8 text (- for standard input)");
    options.add_integer(
        "--stride", stride_, 1, std::numeric_limits<std::int32_t>::max(),
        "Tokens between the starts of windows of --max-model-len; the window's length if not given");
    options.add_flag("--bos", prepend_bos_, "Begin every window with the beginning-of-sequence token");
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    if (text_file_.empty()) return bad_input("no text given (--text); name a file");
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(const std::string text, read_file(text_file_, kMaxTextBytes));
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    NIB_TRY(const Perplexity result, measure(*llm, text));
    return common_.json ? print_json(result) : print_text(result);
  }

 private:
  Result<Perplexity> measure(Llm& llm, const std::string& text) const {
    const InterruptScope scope(&llm);
    Progress progress(common_.progress);
    PerplexityOptions ppl;
    ppl.stride = stride_;
    ppl.prepend_bos = prepend_bos_;
    auto result = llm.perplexity(text, ppl, progress.callback());
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
  std::filesystem::path text_file_;
  std::int32_t stride_ = 0;
  bool prepend_bos_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_ppl() { return std::make_unique<EvalPplCommand>(); }

}  // namespace nibble::cli
