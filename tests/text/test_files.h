// Reading golden files in the tests of text.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nibble/tokenizer.h"

namespace nibble::text::testing {

std::string read_text(const std::filesystem::path& file);

// One JSON value per line.
std::vector<nlohmann::json> read_lines(const std::filesystem::path& file);

// The golden directories of that name: the one in the source tree, and the wider set's where it is there.
std::vector<std::filesystem::path> golden_directories(const std::string& name);

// The golden V3 tokenizer of the source tree.
const Tokenizer& golden_tokenizer();

}  // namespace nibble::text::testing
