#pragma once

#include <string_view>

#include "nibble/tokenizer.h"

namespace nibble::text {

// A tokenizer from the text of a tokenizer.json alone; messages start with `where`.
Result<Tokenizer> load_tokenizer_from_json(std::string_view json, std::string_view where);

}  // namespace nibble::text
