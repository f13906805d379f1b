#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "nibble/result.h"

namespace nibble::text {

// The whole of a regular file; nothing if there is none. bad_input for anything else at that path and for
// files larger than max_bytes.
Result<std::optional<std::string>> read_file(const std::filesystem::path& file, std::size_t max_bytes);

}  // namespace nibble::text
