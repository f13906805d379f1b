#include "text/read_file.h"

#include <fmt/format.h>

#include <fstream>
#include <system_error>

namespace nibble::text {

namespace fs = std::filesystem;

Result<std::optional<std::string>> read_file(const fs::path& file, std::size_t max_bytes) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) return std::optional<std::string>();
  if (!error && status.type() != fs::file_type::regular) {
    return bad_input(fmt::format("{}: not a regular file", file.string()));
  }
  const std::uintmax_t size = error ? 0 : fs::file_size(file, error);
  if (error) return bad_input(fmt::format("{}: {}", file.string(), error.message()));
  if (size > max_bytes) {
    return bad_input(fmt::format("{}: {} bytes, at most {} are supported", file.string(), size, max_bytes));
  }
  std::ifstream stream(file, std::ios::binary);
  std::string text(static_cast<std::size_t>(size), '\0');
  stream.read(text.data(), static_cast<std::streamsize>(size));
  if (!stream) return bad_input(fmt::format("{}: cannot read its {} bytes", file.string(), size));
  return std::optional<std::string>(std::move(text));
}

}  // namespace nibble::text
