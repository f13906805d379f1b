#include "cli/chat.h"

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/line_reader.h"
#include "cli/model_options.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr const char* kHelp =
    "/reset  forget the conversation\n"
    "/help   this list\n"
    "/exit   leave (also Ctrl-D, or Ctrl-C twice)\n"
    "Ctrl-C stops a reply.\n";

// How many Ctrl-C in a row end the program when a reply doesn't stop.
constexpr int kTolerated = 4;

ChatMessage message(std::string role, std::string content) {
  ChatMessage m;
  m.role = std::move(role);
  m.content = std::move(content);
  return m;
}

class Chat {
 public:
  Chat(Llm& llm, ChatFormat format, const GenerationOptions& generation)
      : llm_(llm), format_(format), generation_(generation) {}

  Status run() {
    const InterruptScope scope(&llm_, kTolerated);
    fmt::print(stderr, "{}, {}; /help lists commands\n", llm_.info().model_type,
               format_ == ChatFormat::raw ? "no chat format: every line is continued"
                                          : fmt::format("chat format {}", chat_format_name(format_)));
    bool warned = false;
    std::string line;
    for (;;) {
      const LineReader::Event event = reader_.read("> ", line);
      if (event == LineReader::Event::end) return {};
      if (event == LineReader::Event::too_long)
        return bad_input("a line of more than 1 MiB (standard input)");
      if (event == LineReader::Event::interrupt) {
        if (warned) return interrupted_error();
        std::fputs("\n(Ctrl-C again or Ctrl-D leaves)\n", stderr);
      }
      if (event == LineReader::Event::interrupt_in_line) std::fputs("\n", stderr);
      warned = event == LineReader::Event::interrupt;
      if (event != LineReader::Event::line) continue;
      if (line == "/exit" || line == "/quit") return {};
      NIB_TRY_STATUS(handle(line));
    }
  }

 private:
  Status handle(const std::string& line) {
    if (line.find_first_not_of(" \t") == std::string::npos) return {};
    if (line == "/reset") {
      messages_.clear();
      std::fputs("(the conversation is forgotten)\n", stderr);
      return {};
    }
    if (line.front() == '/') {
      if (line != "/help") fmt::print(stderr, "unknown command {}\n", printable(line));
      std::fputs(kHelp, stderr);
      return {};
    }
    const std::size_t before = messages_.size();
    messages_.push_back(message("user", line));
    const Status answered = reply(line);
    if (answered.ok()) return answered;
    messages_.resize(before);
    // What was typed can be wrong without ending the chat: too long, not UTF-8.
    if (answered.error().code != ErrorCode::bad_input) return answered;
    fmt::print(stderr, "error: {}\n", printable(answered.error().message));
    return {};
  }

  Status reply(const std::string& line) {
    const Tokenizer& tokenizer = *llm_.tokenizer();
    NIB_TRY(std::vector<TokenId> prompt, format_ == ChatFormat::raw
                                             ? encode_raw(tokenizer, generation_, line)
                                             : encode_chat(tokenizer, format_, generation_, messages_));
    clear_interrupt();
    llm_.clear_stop();
    Status written;
    const auto on_text = [&written](std::string_view text, TokenId) {
      written = print(text);
      return written.ok();
    };
    NIB_TRY(const Generation answer,
            llm_.generate(make_request(generation_, std::move(prompt), llm_), on_text));
    NIB_TRY_STATUS(written);
    NIB_TRY_STATUS(print("\n"));
    show_speed(answer);
    messages_.push_back(message("assistant", answer.text));
    return {};
  }

  Llm& llm_;
  ChatFormat format_;
  const GenerationOptions& generation_;
  LineReader reader_;
  std::vector<ChatMessage> messages_;
};

}  // namespace

Status run_chat(Llm& llm, ChatFormat format, const GenerationOptions& generation) {
  return Chat(llm, format, generation).run();
}

}  // namespace nibble::cli
