#include "formats/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "formats/mapped_file.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;

// Written pages are handed to the disk in pieces of this size, so that the last sync has little to wait for.
constexpr std::uint64_t kSyncBytes = std::uint64_t{64} << 20;

std::string shown(const fs::path& path) { return printable(path.native(), 1024); }
std::string system_text(int error) { return std::generic_category().message(error); }

bool no_room(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

// A rename is on disk when its directory is. Some file systems cannot sync directories; the data is safe then
// too.
void sync_directory(const fs::path& dir) {
  const int fd = ::open(dir.empty() ? "." : dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fsync(fd);
  ::close(fd);
}

}  // namespace

fs::path OutputFile::partial_path() const {
  fs::path partial = path_;
  partial += ".partial";
  return partial;
}

Error OutputFile::failed(std::string_view what, int error) const {
  const std::string cure = no_room(error) ? "; make room and run the command again" : "";
  return runtime_error(fmt::format("{}: cannot {}: {}{}", shown(path_), what, system_text(error), cure));
}

Result<OutputFile> OutputFile::create(const fs::path& path, std::uint64_t bytes) {
  OutputFile file(path, -1);
  file.fd_ = ::open(file.partial_path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (file.fd_ < 0) {
    const int error = errno;
    if (no_room(error)) return file.failed("create", error);
    return bad_input(fmt::format("{}: cannot create: {}; check the path", shown(path), system_text(error)));
  }
  if (bytes == 0 || ::fallocate(file.fd_, 0, 0, static_cast<off_t>(bytes)) == 0) return file;
  const int error = errno;
  // Not every file system can reserve room; the writes will tell.
  if (!no_room(error)) return file;
  return file.failed(fmt::format("reserve {} bytes", bytes), error);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

OutputFile::~OutputFile() { discard(); }

void OutputFile::discard() noexcept {
  if (fd_ < 0) return;
  ::close(std::exchange(fd_, -1));
  ::unlink(partial_path().c_str());
}

Status OutputFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t size = std::min<std::size_t>(bytes.size(), kSyncBytes);
    const ssize_t written = ::pwrite(fd_, bytes.data(), size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write", errno);
    // Starts writing back, waits for nothing; only an advice.
    if (static_cast<std::uint64_t>(written) == kSyncBytes) {
      (void)::sync_file_range(fd_, static_cast<off_t>(offset), written, SYNC_FILE_RANGE_WRITE);
    }
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Status OutputFile::finish() {
  NIB_CHECK(fd_ >= 0, "finished twice");
  if (::fsync(fd_) != 0) return failed("write", errno);
  if (::rename(partial_path().c_str(), path_.c_str()) != 0) return failed("rename to its final name", errno);
  if (::close(std::exchange(fd_, -1)) != 0) return failed("close", errno);
  sync_directory(path_.parent_path());
  return {};
}

Status write_file_atomically(const fs::path& path, std::string_view text) {
  NIB_TRY(OutputFile file, OutputFile::create(path, 0));
  NIB_TRY_STATUS(file.write(0, std::as_bytes(std::span(text.data(), text.size()))));
  return file.finish();
}

Status copy_file_atomically(const fs::path& from, const fs::path& to) {
  NIB_TRY(const MappedFile source, MappedFile::open(from));
  NIB_TRY(OutputFile file, OutputFile::create(to, source.bytes().size()));
  NIB_TRY_STATUS(file.write(0, source.bytes()));
  return file.finish();
}

}  // namespace nibble::formats
