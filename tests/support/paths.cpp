#include "tests/support/paths.h"

#include <cstdlib>

namespace nibble::testing {

namespace fs = std::filesystem;

fs::path test_data(const fs::path& name) { return fs::path(NIBBLE_SOURCE_DIR) / "tests" / "data" / name; }

std::vector<fs::path> golden_roots() {
  std::vector<fs::path> roots{test_data("golden")};
  const char* wider = std::getenv("NIBBLE_GOLDEN_DIR");
  const fs::path beside = fs::path(NIBBLE_SOURCE_DIR) / ".." / "shared" / "golden";
  if (wider != nullptr) {
    roots.emplace_back(wider);
  } else if (fs::exists(beside)) {
    roots.push_back(beside);
  }
  return roots;
}

}  // namespace nibble::testing
