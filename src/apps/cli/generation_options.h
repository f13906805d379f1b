// Flags that say how to generate, and what both the one-shot run and the chat do with them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

class OptionSet;

struct GenerationOptions {
  GenerateRequest request;
  std::string system;
  std::string chat_format;  // empty: what the tokenizer's files say
  bool thinking = false;
  bool no_thinking = false;
  bool no_bos = false;
};

void add_generation_options(OptionSet& options, GenerationOptions& generation);

// chat_format_from_name, its error saying which flag is meant.
Result<ChatFormat> chat_format_flag(const std::string& name);

// Contradictions and limits that need no model.
Status check(const GenerationOptions& generation);

// The chat format to use: the flag's, else the model's (raw if it has none).
Result<ChatFormat> choose_chat_format(const GenerationOptions& generation, const Tokenizer& tokenizer);

// Token ids of the conversation so far, ready for the assistant's turn.
Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer, ChatFormat format,
                                         const GenerationOptions& generation,
                                         const std::vector<ChatMessage>& messages);

// Token ids of plain text; BOS first where the tokenizer's files ask for it.
Result<std::vector<TokenId>> encode_raw(const Tokenizer& tokenizer, const GenerationOptions& generation,
                                        const std::string& text);

// The request for `prompt`, with max_tokens cut to what the context still holds.
GenerateRequest make_request(const GenerationOptions& generation, std::vector<TokenId> prompt,
                             const Llm& llm);

// "[12 prompt tokens at 85.3/s, 64 tokens at 41.2/s]" on stderr, if that is a terminal.
void show_speed(const Generation& generation);

}  // namespace nibble::cli
