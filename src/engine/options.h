// LlmOptions, checked and turned into what the layers below take.
#pragma once

#include <filesystem>

#include "engine/sizing.h"
#include "kernels/device.h"
#include "models/registry.h"
#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::engine {

struct ParsedOptions {
  kernels::DeviceOptions device;
  models::LoadOptions load;
  SizeRequest size;
  std::filesystem::path tokenizer_dir;  // where tokenizer.json is looked for
};

// bad_input for values that make no sense, unsupported for devices and formats this build lacks. Looks
// at no file.
Result<ParsedOptions> parse_options(const LlmOptions& options);

}  // namespace nibble::engine
