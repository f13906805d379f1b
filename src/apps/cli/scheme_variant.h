// What a row of `nibble eval table` runs: a scheme and how it departs from the defaults.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

struct SchemeVariant {
  std::string scheme;
  bool plain_scales = false;
  std::string attn;  // these four: empty = `scheme`
  std::string mlp;
  std::string experts;
  std::string other;
  std::string kv_cache_dtype;  // empty = the command's

  // "mxfp4 (plain)", "mxfp4, attn fp8", "bf16 + kv fp8_e4m3"
  [[nodiscard]] std::string name() const;
  [[nodiscard]] LlmOptions apply(LlmOptions options) const;
};

// "SCHEME[:plain][:attn=SCHEME][:mlp=..][:experts=..][:other=..][:kv=DTYPE]", separated by commas.
// bad_input for unknown schemes and modifiers.
Result<std::vector<SchemeVariant>> parse_scheme_variants(std::string_view list);

// Every scheme that this build knows, plain scales for those of four bits, and the 8-bit cache formats
// that the model can be run with.
std::vector<SchemeVariant> default_scheme_variants(const LlmOptions& options);

}  // namespace nibble::cli
