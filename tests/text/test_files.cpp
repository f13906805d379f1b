#include "tests/text/test_files.h"

#include <fstream>
#include <iterator>
#include <stdexcept>

#include "tests/support/paths.h"

namespace nibble::text::testing {

namespace fs = std::filesystem;

std::string read_text(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<nlohmann::json> read_lines(const fs::path& file) {
  std::vector<nlohmann::json> lines;
  std::ifstream stream(file, std::ios::binary);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  if (lines.empty()) throw std::runtime_error("no lines in " + file.string());
  return lines;
}

std::vector<fs::path> golden_directories(const std::string& name) {
  std::vector<fs::path> directories;
  for (const fs::path& root : nibble::testing::golden_roots()) {
    if (fs::is_directory(root / name)) directories.push_back(root / name);
  }
  if (directories.empty()) throw std::runtime_error("no golden directory " + name);
  return directories;
}

const Tokenizer& golden_tokenizer() {
  static const Tokenizer tokenizer = [] {
    auto loaded = Tokenizer::load(nibble::testing::test_data("golden/tokenizer"));
    if (!loaded.ok()) throw std::runtime_error(loaded.error().message);
    return std::move(loaded).value();
  }();
  return tokenizer;
}

}  // namespace nibble::text::testing
