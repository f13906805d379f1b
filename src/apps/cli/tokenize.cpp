// nibble tokenize: JSON lines on stdin to JSON lines on stdout. Needs only tokenizer.json and
// tokenizer_config.json of the model directory.

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/generation_options.h"
#include "cli/json_input.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "nibble/tokenizer.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{16} << 20;

class TokenizeCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Model");
    options.add_positional("MODEL,-m,--model", model_, "Directory with tokenizer.json");
    options.add_text(
        "--chat-format", chat_format_, "NAME",
        "Render messages for deepseek-v2, deepseek-v3, deepseek-r1, deepseek-v3.1, deepseek-v4 or raw; "
        "recognised from tokenizer_config.json if not given");
    add_common_options(options, common_, "The output is always JSON lines", false);
  }

  Status run() override {
    NIB_TRY_STATUS(require_model(model_));
    std::optional<ChatFormat> format;
    if (!chat_format_.empty()) {
      NIB_TRY(format, chat_format_flag(chat_format_));
    }
    NIB_TRY(const Tokenizer tokenizer, Tokenizer::load(model_));
    LineSource input(kMaxLineBytes);
    std::string line;
    for (std::int64_t number = 1;; ++number) {
      const LineSource::Status status = input.next(line);
      if (status == LineSource::Status::end) return {};
      if (status == LineSource::Status::too_long) {
        return bad_input(
            fmt::format("line {}: longer than {} bytes (standard input)", number, kMaxLineBytes));
      }
      if (status != LineSource::Status::line) return runtime_error("cannot read (standard input)");
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      auto answer = convert(tokenizer, format.value_or(tokenizer.chat_format()), line);
      if (!answer.ok()) return std::move(answer).error().with_context(fmt::format("line {}", number));
      NIB_TRY_STATUS(print_line(*answer));
    }
  }

 private:
  static Result<std::string> convert(const Tokenizer& tokenizer, ChatFormat format, const std::string& line) {
    NIB_TRY(const TokenizeLine request, parse_tokenize_line(line));
    JsonWriter json;
    json.begin_object();
    if (request.ids) {
      NIB_TRY(const std::string text, tokenizer.decode(*request.ids, request.skip_special_tokens));
      json.field("text", text);
    } else if (request.is_chat) {
      NIB_TRY(const ChatRequest chat, parse_chat_request(line));
      NIB_TRY(const std::string text, tokenizer.render_chat(chat, format));
      NIB_TRY(const std::vector<TokenId> ids, tokenizer.encode(text));
      json.field("text", text).field("ids", ids);
    } else {
      NIB_TRY(const std::vector<TokenId> ids, tokenizer.encode(*request.text));
      json.field("ids", ids);
    }
    return json.end_object().text();
  }

  std::filesystem::path model_;
  std::string chat_format_;
  CommonOptions common_;
};

}  // namespace

std::unique_ptr<Command> make_tokenize() { return std::make_unique<TokenizeCommand>(); }

}  // namespace nibble::cli
