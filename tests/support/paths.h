// Where tests find their data.
#pragma once

#include <filesystem>
#include <vector>

namespace nibble::testing {

// tests/data/<name> in the source tree.
std::filesystem::path test_data(const std::filesystem::path& name);

// The directories holding golden models and vectors: tests/data/golden, and the wider set of
// NIBBLE_GOLDEN_DIR (or ../shared/golden beside the source tree) when it is there.
std::vector<std::filesystem::path> golden_roots();

}  // namespace nibble::testing
