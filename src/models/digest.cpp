// digest_checkpoint of nibble/checkpoint.h.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "core/quote.h"
#include "core/sha256.h"
#include "formats/checkpoint.h"
#include "nibble/checkpoint.h"

namespace nibble {
namespace {

constexpr std::size_t kReadBytes = std::size_t{4} << 20;

struct Reading {
  const ProgressCallback& progress;
  std::uint64_t done = 0;
  std::uint64_t total = 0;

  // False: stop.
  [[nodiscard]] bool report() const { return !progress || progress("digest", done, total, "bytes"); }
};

Error cannot_read(const std::filesystem::path& path) {
  return runtime_error(
      fmt::format("{}: cannot read: {}", printable(path.native(), 1024), std::strerror(errno)));
}

Result<FileDigest> digest_file(const std::filesystem::path& path, Reading& reading) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) return cannot_read(path);
  FileDigest digest{.file = path.filename().string()};
  Sha256 hash;
  std::vector<std::byte> chunk(kReadBytes);
  while (const std::size_t count = std::fread(chunk.data(), 1, chunk.size(), file.get())) {
    hash.update({chunk.data(), count});
    digest.bytes += count;
    reading.done += count;
    if (!reading.report()) return Error{ErrorCode::interrupted, "reading was interrupted"};
  }
  if (std::ferror(file.get()) != 0) return cannot_read(path);
  digest.sha256 = hash.hex_digest();
  return digest;
}

}  // namespace

Result<std::vector<FileDigest>> digest_checkpoint(const std::filesystem::path& model_dir,
                                                  const ProgressCallback& progress) {
  NIB_TRY(const formats::Checkpoint checkpoint, formats::Checkpoint::open(model_dir));
  Reading reading{.progress = progress};
  for (const std::filesystem::path& path : checkpoint.files()) {
    std::error_code ignored;  // a file that vanished is reported when it is opened
    if (const std::uintmax_t size = std::filesystem::file_size(path, ignored); !ignored)
      reading.total += size;
  }
  std::vector<FileDigest> digests;
  for (const std::filesystem::path& path : checkpoint.files()) {
    NIB_TRY(FileDigest digest, digest_file(path, reading));
    digests.push_back(std::move(digest));
  }
  return digests;
}

}  // namespace nibble
