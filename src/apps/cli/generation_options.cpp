#include "cli/generation_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <limits>

#include "cli/options.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kMaxStopStrings = 16;
constexpr std::size_t kMaxStopBytes = 256;
constexpr float kMaxTemperature = 100.0F;
constexpr float kMaxRepetitionPenalty = 10.0F;

}  // namespace

void add_generation_options(OptionSet& options, GenerationOptions& generation) {
  GenerateRequest& request = generation.request;
  SamplingParams& sampling = request.sampling;
  options.heading("Chat");
  options.add_text(
      "--chat-format", generation.chat_format, "NAME",
      "deepseek-v2, deepseek-v3, deepseek-r1, deepseek-v3.1, deepseek-v4 or raw; what the model's files "
      "say if not given");
  options.add_text("--system", generation.system, "TEXT", "System message");
  options.add_flag("--thinking", generation.thinking,
                   "Let the model think first, where its format has a switch");
  options.add_flag("--no-thinking", generation.no_thinking, "Answer directly, where the format has a switch");
  options.heading("Sampling");
  options.add_integer("--max-tokens,-n", sampling.max_tokens, 1, kMaxInt, "Tokens to generate at most");
  options.add_number("--temperature", sampling.temperature, 0.0F, kMaxTemperature,
                     "0 picks the likeliest token");
  options.add_integer("--top-k", sampling.top_k, 0, kMaxInt, "Only the K likeliest tokens; 0 for all");
  options.add_number("--top-p", sampling.top_p, std::numeric_limits<float>::min(), 1.0F,
                     "Only the likeliest tokens that make up this probability");
  options.add_number("--min-p", sampling.min_p, 0.0F, 1.0F,
                     "Only tokens with this share of the likeliest one's probability");
  options.add_seed("--seed", sampling.seed, "Same seed, same text");
  options.add_number("--presence-penalty", sampling.presence_penalty, -2.0F, 2.0F,
                     "For tokens already generated");
  options.add_number("--frequency-penalty", sampling.frequency_penalty, -2.0F, 2.0F,
                     "For each time a token was generated");
  options.add_number("--repetition-penalty", sampling.repetition_penalty, std::numeric_limits<float>::min(),
                     kMaxRepetitionPenalty, "For tokens of the prompt and of the text");
  options.add_repeatable("--stop", request.stop_strings, "TEXT", "End before this text");
  options.add_flag("--ignore-eos", sampling.ignore_eos, "Go on after the end-of-sequence token");
  options.add_flag("--no-bos", generation.no_bos,
                   "Do not begin raw text with the beginning-of-sequence token");
}

Result<ChatFormat> chat_format_flag(const std::string& name) {
  auto format = chat_format_from_name(name);
  if (!format.ok()) return std::move(format).error().with_context("--chat-format");
  return format;
}

Status check(const GenerationOptions& generation) {
  if (generation.thinking && generation.no_thinking) {
    return bad_input("--thinking and --no-thinking contradict each other (nibble run); leave one out");
  }
  if (!generation.chat_format.empty()) {
    NIB_TRY([[maybe_unused]] const ChatFormat format, chat_format_flag(generation.chat_format));
  }
  const std::vector<std::string>& stops = generation.request.stop_strings;
  if (stops.size() > kMaxStopStrings) {
    return bad_input(
        fmt::format("{} stop texts (--stop); at most {} are possible", stops.size(), kMaxStopStrings));
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return bad_input(
          fmt::format("a stop text of {} bytes (--stop); give 1 to {} bytes", stop.size(), kMaxStopBytes));
    }
  }
  return {};
}

Result<ChatFormat> choose_chat_format(const GenerationOptions& generation, const Tokenizer& tokenizer) {
  if (generation.chat_format.empty()) return tokenizer.chat_format();
  return chat_format_flag(generation.chat_format);
}

Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                         const GenerationOptions& generation,
                                         const std::vector<ChatMessage>& messages) {
  ChatRequest chat;
  if (!generation.system.empty()) {
    ChatMessage system;
    system.role = "system";
    system.content = generation.system;
    chat.messages.push_back(std::move(system));
  }
  chat.messages.insert(chat.messages.end(), messages.begin(), messages.end());
  chat.add_generation_prompt = true;
  if (generation.thinking || generation.no_thinking) chat.thinking = generation.thinking;
  NIB_TRY(const std::string text, tokenizer.render_chat(chat, format));
  return tokenizer.encode(text);
}

Result<std::vector<TokenId>> encode_raw(const Tokenizer& tokenizer, const GenerationOptions& generation,
                                        const std::string& text) {
  return tokenizer.encode(text, tokenizer.add_bos() && !generation.no_bos);
}

GenerateRequest make_request(const GenerationOptions& generation, std::vector<TokenId> prompt,
                             const Llm& llm) {
  GenerateRequest request = generation.request;
  const auto room =
      static_cast<std::int64_t>(llm.info().max_model_len) - static_cast<std::int64_t>(prompt.size());
  const auto wanted = static_cast<std::int64_t>(request.sampling.max_tokens);
  request.sampling.max_tokens = static_cast<std::int32_t>(std::max<std::int64_t>(1, std::min(wanted, room)));
  request.prompt = std::move(prompt);
  return request;
}

void show_speed(const Generation& generation) {
  if (::isatty(STDERR_FILENO) != 1) return;
  fmt::print(stderr, "[{} prompt tokens at {:.1f}/s, {} tokens at {:.1f}/s, {}]\n", generation.prompt_tokens,
             generation.timings.prefill_tok_s, generation.token_ids.size(), generation.timings.decode_tok_s,
             finish_reason_name(generation.finish));
}

}  // namespace nibble::cli
