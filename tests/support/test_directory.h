// TestDirectory: a fresh directory that is removed at the end of the test.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nibble::testing {

class TestDirectory {
 public:
  TestDirectory();  // throws std::runtime_error if it cannot be made
  ~TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

}  // namespace nibble::testing
