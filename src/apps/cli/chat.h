// The interactive chat of `nibble run` and `nibble chat`.
#pragma once

#include "cli/generation_options.h"
#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

// Reads messages until the end of input, /exit, or a second Ctrl-C at an empty prompt. A Ctrl-C while
// a reply is written stops that reply. With ChatFormat::raw each line is continued on its own.
Status run_chat(Llm& llm, ChatFormat format, const GenerationOptions& generation);

}  // namespace nibble::cli
