#include "tests/support/test_directory.h"

#include <stdlib.h>

#include <fstream>
#include <stdexcept>
#include <system_error>

namespace nibble::testing {

namespace fs = std::filesystem;

TestDirectory::TestDirectory() {
  std::string name = (fs::temp_directory_path() / "nibble-test-XXXXXX").native();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a directory like " + name);
  path_ = name;
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void TestDirectory::write(const std::string& name, std::string_view content) const {
  std::ofstream(path_ / name, std::ios::binary) << content;
}

}  // namespace nibble::testing
