// nibble run and nibble chat.

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cli/chat.h"
#include "cli/command.h"
#include "cli/files.h"
#include "cli/generation_options.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxPromptBytes = std::size_t{64} << 20;

bool stdin_is_terminal() { return ::isatty(STDIN_FILENO) == 1; }

class RunCommand final : public Command {
 public:
  explicit RunCommand(bool chat_only) : chat_only_(chat_only) {}

  void define(OptionSet& options) override {
    options_ = &options;
    add_model_options(options, model_);
    if (!chat_only_) add_prompt_options(options);
    options.heading("Chat");
    options.add_flag("--raw", raw_, "Continue the text as it is");
    add_generation_options(options, generation_);
    add_common_options(options, common_, "Print one JSON object at the end instead of streaming");
  }

  Status run() override {
    has_prompt_ = options_->given("prompt");
    NIB_TRY_STATUS(check_flags());
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    const bool interactive = chat_only_ || (!has_source() && stdin_is_terminal());
    if (interactive && common_.json) {
      return bad_input(
          "--json needs a prompt (nibble run); give -p, --prompt-file, --prompt-tokens or pipe one in");
    }
    if (!interactive) NIB_TRY_STATUS(read_prompt());
    if (prompt_tokens_.empty()) NIB_TRY_STATUS(require_tokenizer(llm_options));
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    if (prompt_tokens_.empty() && llm->tokenizer() == nullptr) return no_tokenizer(llm_options);
    return interactive ? converse(*llm) : generate_once(*llm);
  }

 private:
  void add_prompt_options(OptionSet& options) {
    options.heading("Prompt (standard input if none is given; one final newline is dropped)");
    options.add_text("--prompt,-p", prompt_, "TEXT", "The text to continue or the message to answer");
    options.add_path("--prompt-file,-f", prompt_file_, "Read it from a file (- for standard input)");
    options.add_integers("--prompt-tokens", prompt_tokens_, 0, "Token ids instead of text");
    options.add_flag("--chat", chat_,
                     "Answer a message; the default in a terminal if the model has a chat format");
  }

  [[nodiscard]] bool has_source() const {
    return has_prompt_ || !prompt_file_.empty() || options_->given("prompt-tokens");
  }

  [[nodiscard]] Status check_flags() const {
    const bool has_tokens = options_->given("prompt-tokens");
    const int sources = (has_prompt_ ? 1 : 0) + (prompt_file_.empty() ? 0 : 1) + (has_tokens ? 1 : 0);
    if (sources > 1) {
      return bad_input(
          "more than one prompt (--prompt, --prompt-file, --prompt-tokens); leave all but one out");
    }
    if (raw_ && (chat_ || !generation_.system.empty())) {
      return bad_input("--raw contradicts --chat and --system (nibble run); leave one out");
    }
    if (has_tokens && (chat_ || !generation_.system.empty() || !generation_.chat_format.empty())) {
      return bad_input("token ids are taken as they are (--prompt-tokens); leave the chat options out");
    }
    return check(generation_);
  }

  // Reads a text prompt before the weights, so that a mistake costs no waiting.
  Status read_prompt() {
    if (options_->given("prompt-tokens")) return {};
    if (!has_prompt_) {
      NIB_TRY(prompt_, read_file(prompt_file_.empty() ? "-" : prompt_file_, kMaxPromptBytes));
      if (!prompt_.empty() && prompt_.back() == '\n') prompt_.pop_back();
    }
    if (prompt_.empty()) return bad_input("the prompt is empty (nibble run); give some text");
    return {};
  }

  static Status no_tokenizer(const LlmOptions& options) {
    return bad_input(fmt::format("no tokenizer.json, so text cannot be read ({}); give --prompt-tokens",
                                 options.model.empty() ? options.config.string() : options.model.string()));
  }

  static Status require_tokenizer(const LlmOptions& options) {
    std::error_code error;
    const bool is_directory = std::filesystem::is_directory(options.model, error);
    // A missing directory is for the library to report.
    if (!is_directory || std::filesystem::exists(options.model / "tokenizer.json", error)) return {};
    return no_tokenizer(options);
  }

  [[nodiscard]] Result<ChatFormat> chat_format(const Tokenizer& tokenizer, bool wanted) const {
    if (raw_ || !wanted) return ChatFormat::raw;
    NIB_TRY(const ChatFormat format, choose_chat_format(generation_, tokenizer));
    const bool demanded = chat_ || !generation_.system.empty();
    if (format == ChatFormat::raw && demanded && generation_.chat_format.empty()) {
      return bad_input(
          "the model's files name no chat format nibble knows (--chat); give --chat-format or --raw");
    }
    return format;
  }

  Status converse(Llm& llm) const {
    NIB_TRY(const ChatFormat format, chat_format(*llm.tokenizer(), true));
    return run_chat(llm, format, generation_);
  }

  [[nodiscard]] Result<std::vector<TokenId>> encode_prompt(const Llm& llm) const {
    if (!prompt_tokens_.empty()) return prompt_tokens_;
    const Tokenizer& tokenizer = *llm.tokenizer();
    const bool wanted =
        chat_ || !generation_.system.empty() || !generation_.chat_format.empty() || stdin_is_terminal();
    NIB_TRY(const ChatFormat format, chat_format(tokenizer, wanted));
    if (format == ChatFormat::raw) return encode_raw(tokenizer, generation_, prompt_);
    ChatMessage user;
    user.role = "user";
    user.content = prompt_;
    return encode_chat(tokenizer, format, generation_, {user});
  }

  Status generate_once(Llm& llm) const {
    if (!generation_.request.stop_strings.empty() && llm.tokenizer() == nullptr) {
      return bad_input("stop texts need a tokenizer.json (--stop); leave them out");
    }
    NIB_TRY(std::vector<TokenId> prompt, encode_prompt(llm));
    const InterruptScope scope(&llm);
    Status written;
    bool at_line_start = true;
    const bool has_text = llm.tokenizer() != nullptr;
    const auto on_text = [&](std::string_view text, TokenId token) {
      const std::string shown =
          has_text ? std::string(text) : fmt::format("{}{}", at_line_start ? "" : ",", token);
      if (common_.json || shown.empty()) return true;
      at_line_start = has_text && shown.back() == '\n';
      written = print(shown);
      return written.ok();
    };
    NIB_TRY(const Generation result,
            llm.generate(make_request(generation_, std::move(prompt), llm), on_text));
    NIB_TRY_STATUS(written);
    if (common_.json) {
      NIB_TRY_STATUS(print_json(result));
    } else {
      if (!at_line_start) NIB_TRY_STATUS(print("\n"));
      if (common_.progress != "none") show_speed(result);
    }
    if (interrupted()) return interrupted_error();
    return {};
  }

  static Status print_json(const Generation& result) {
    JsonWriter json;
    json.begin_object().field("token_ids", result.token_ids).field("text", result.text);
    json.field("prompt_tokens", result.prompt_tokens)
        .field("finish_reason", finish_reason_name(result.finish));
    json.key("timings").begin_object().field("load_s", result.timings.load_s);
    json.field("prefill_tok_s", result.timings.prefill_tok_s)
        .field("decode_tok_s", result.timings.decode_tok_s);
    return print_line(json.end_object().end_object().text());
  }

  bool chat_only_;
  const OptionSet* options_ = nullptr;
  ModelOptions model_;
  CommonOptions common_;
  GenerationOptions generation_;
  std::string prompt_;
  bool has_prompt_ = false;
  std::filesystem::path prompt_file_;
  std::vector<TokenId> prompt_tokens_;
  bool chat_ = false;
  bool raw_ = false;
};

}  // namespace

std::unique_ptr<Command> make_run() { return std::make_unique<RunCommand>(false); }
std::unique_ptr<Command> make_chat() { return std::make_unique<RunCommand>(true); }

}  // namespace nibble::cli
