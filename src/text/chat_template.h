// The publishers' chat templates, written out in C++: a template from a model's files is only ever looked at
// to see which of these it is.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nibble/result.h"
#include "nibble/tokenizer.h"

namespace nibble::text {

enum class ChatTemplate : std::uint8_t {
  deepseek_v2,
  deepseek_v3,  // DeepSeek-V3-0324
  deepseek_r1,
  deepseek_r1_0528,
  deepseek_v3_1,
  deepseek_v3_1_terminus,  // and V3.2-Exp
};

ChatFormat format_of(ChatTemplate kind) noexcept;

// The first published template of a format; nothing for raw and deepseek_v4.
std::optional<ChatTemplate> first_template(ChatFormat format) noexcept;

// Tells a Jinja text by what only it contains; nothing if it is none of ours.
std::optional<ChatTemplate> recognise_template(std::string_view jinja);

// Strings that differ between checkpoints.
struct ChatMarkers {
  std::string_view bos;
  std::string_view eos;  // V2 only; the others spell it out
};

// bad_input, naming the message, where the publisher's template fails.
Result<std::string> render_template(ChatTemplate kind, const ChatRequest& request,
                                    const ChatMarkers& markers);

}  // namespace nibble::text
