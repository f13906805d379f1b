#include "formats/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "core/quote.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

struct OpenFile {
  FileDescriptor fd;
  std::size_t size;
};

std::string system_text(int error) { return std::generic_category().message(error); }

// O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
Result<OpenFile> open_regular(const fs::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const std::string name = printable(path.native(), 1024);
  if (fd.get() < 0) return bad_input(fmt::format("{}: cannot open: {}", name, system_text(errno)));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0)
    return runtime_error(fmt::format("{}: cannot stat: {}", name, system_text(errno)));
  if (!S_ISREG(info.st_mode)) return bad_input(fmt::format("{}: expected a regular file", name));
  return OpenFile{std::move(fd), static_cast<std::size_t>(info.st_size)};
}

void advise(std::span<const std::byte> bytes, int advice) noexcept {
  if (bytes.empty()) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t begin = address / page * page;
  // Advice only: a refusal costs speed, nothing else.
  (void)::madvise(reinterpret_cast<void*>(begin), address + bytes.size() - begin, advice);
}

}  // namespace

Result<MappedFile> MappedFile::open(const fs::path& path) {
  NIB_TRY(const OpenFile file, open_regular(path));
  if (file.size == 0) return MappedFile(nullptr, 0);
  void* data = ::mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.fd.get(), 0);
  if (data == MAP_FAILED) {
    return runtime_error(fmt::format("{}: cannot map {} bytes: {}", printable(path.native(), 1024), file.size,
                                     system_text(errno)));
  }
  return MappedFile(static_cast<const std::byte*>(data), file.size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void advise_will_need(std::span<const std::byte> bytes) noexcept { advise(bytes, MADV_WILLNEED); }

// Rounds outwards as well: a neighbour's page that is dropped with ours is simply mapped again.
void advise_done(std::span<const std::byte> bytes) noexcept { advise(bytes, MADV_DONTNEED); }

Result<std::string> read_small_file(const fs::path& path, std::size_t max_bytes) {
  NIB_TRY(const OpenFile file, open_regular(path));
  const std::string name = printable(path.native(), 1024);
  if (file.size > max_bytes) {
    return bad_input(fmt::format("{}: {} bytes; expected at most {}", name, file.size, max_bytes));
  }
  std::string text(file.size, '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.fd.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return runtime_error(fmt::format("{}: cannot read: {}", name, system_text(errno)));
    if (got == 0) break;  // shortened since fstat
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace nibble::formats
