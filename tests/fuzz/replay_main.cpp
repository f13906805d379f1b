// Runs a fuzz target over files, in place of libFuzzer:
//   replay PATH... [--ends-with SUFFIX PATH...]
// Directories are walked; after --ends-with only files with that suffix count. Fails if there are none.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace fs = std::filesystem;

void replay(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // A vector of exactly this size, so that sanitizers see reads past its end.
  const std::vector<std::uint8_t> data(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(data.data(), data.size());
}

int replay_tree(const fs::path& root, std::string_view suffix) {
  if (fs::is_regular_file(root)) {
    replay(root);
    return 1;
  }
  int count = 0;
  if (!fs::is_directory(root)) return count;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file() || !entry.path().native().ends_with(suffix)) continue;
    replay(entry.path());
    ++count;
  }
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  std::string_view suffix;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--ends-with" && i + 1 < argc) {
      suffix = argv[++i];
    } else {
      count += replay_tree(argv[i], suffix);
    }
  }
  std::printf("%d inputs replayed\n", count);
  return count > 0 ? 0 : 1;
}
