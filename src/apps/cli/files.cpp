#include "cli/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace nibble::cli {

namespace fs = std::filesystem;

namespace {

std::string reason() { return std::strerror(errno); }

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

Result<std::string> read_descriptor(int fd, const std::string& name, std::size_t max_bytes) {
  std::string text;
  std::array<char, std::size_t{64} << 10> chunk{};
  for (;;) {
    const ssize_t n = ::read(fd, chunk.data(), chunk.size());
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return bad_input(fmt::format("cannot read: {} ({})", reason(), name));
    text.append(chunk.data(), static_cast<std::size_t>(n));
    if (text.size() > max_bytes) {
      return bad_input(fmt::format("more than {} bytes ({}); give less at a time", max_bytes, name));
    }
  }
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), std::size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

Result<std::string> read_file(const fs::path& file, std::size_t max_bytes) {
  if (file == "-") return read_stdin(max_bytes);
  const Descriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0)
    return bad_input(fmt::format("cannot open: {} ({}); check the path", reason(), file.string()));
  struct stat info {};
  if (::fstat(fd.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return bad_input(fmt::format("expected a file, found a directory ({})", file.string()));
  }
  return read_descriptor(fd.get(), file.string(), max_bytes);
}

Result<std::string> read_stdin(std::size_t max_bytes) {
  return read_descriptor(STDIN_FILENO, "standard input", max_bytes);
}

LineSource::Status LineSource::next(std::string& line) {
  std::size_t searched = start_;
  for (;;) {
    if (const std::size_t end = buffer_.find('\n', searched); end != std::string::npos) {
      line.assign(buffer_, start_, end - start_);
      start_ = end + 1;
      return Status::line;
    }
    if (at_end_) {
      if (start_ == buffer_.size()) return Status::end;
      line.assign(buffer_, start_, std::string::npos);
      start_ = buffer_.size();
      return Status::line;
    }
    if (buffer_.size() - start_ > max_line_bytes_) return Status::too_long;
    buffer_.erase(0, start_);
    start_ = 0;
    searched = buffer_.size();
    std::array<char, std::size_t{64} << 10> chunk{};
    const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
    if (n < 0) return errno == EINTR ? Status::interrupted : Status::failed;
    if (n == 0) at_end_ = true;
    buffer_.append(chunk.data(), static_cast<std::size_t>(n));
  }
}

Status write_file_atomically(const fs::path& file, std::span<const std::string_view> parts) {
  fs::path temporary = file;
  temporary += fmt::format(".{}.tmp", ::getpid());
  const auto fail = [&](std::string_view what) {
    const Error error = runtime_error(fmt::format("cannot {}: {} ({})", what, reason(), file.string()));
    ::unlink(temporary.c_str());
    return Status(error);
  };
  {
    const Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (fd.get() < 0) {
      return bad_input(fmt::format("cannot write: {} ({}); check the path", reason(), file.string()));
    }
    for (const std::string_view part : parts) {
      if (!write_all(fd.get(), part)) return fail("write");
    }
    if (::fsync(fd.get()) != 0) return fail("write");
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) return fail("rename to its final name");
  return {};
}

Status print(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return {};
  if (errno == EPIPE) return runtime_error("");
  return runtime_error(fmt::format("cannot write the result: {} (standard output)", reason()));
}

Status print_line(std::string_view text) { return print(std::string(text) + '\n'); }

}  // namespace nibble::cli
