#include "engine/host_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace nibble::engine {
namespace {

// The number after `key` in a file of "key value" lines.
std::optional<std::uint64_t> read_field(const char* path, std::string_view key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t digits = line.find_first_of("0123456789", key.size());
    if (digits != std::string::npos) return std::strtoull(line.c_str() + digits, nullptr, 10);
  }
  return {};
}

// The number a file holds; nothing if it is missing or says "max".
std::optional<std::uint64_t> read_number(const char* path) {
  std::ifstream in(path);
  std::uint64_t value = 0;
  if (in >> value) return value;
  return {};
}

}  // namespace

HostMemory host_memory() {
  constexpr std::uint64_t kKiB = 1024;
  HostMemory memory{.total = read_field("/proc/meminfo", "MemTotal:").value_or(0) * kKiB,
                    .available = read_field("/proc/meminfo", "MemAvailable:").value_or(0) * kKiB};
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto current = read_number("/sys/fs/cgroup/memory.current");
  if (limit && current) {
    // memory.current counts the page cache, which is given up on demand.
    const std::uint64_t files = read_field("/sys/fs/cgroup/memory.stat", "inactive_file ").value_or(0) +
                                read_field("/sys/fs/cgroup/memory.stat", "active_file ").value_or(0);
    const std::uint64_t used = *current - std::min(*current, files);
    memory.total = std::min(memory.total, *limit);
    memory.available = std::min(memory.available, *limit - std::min(*limit, used));
  }
  return memory;
}

std::uint64_t available_memory(const kernels::Device& device) {
  // What a device's kernels take besides: scratch, code, what is lost to allocation.
  constexpr std::uint64_t kKeptBack = std::uint64_t{2} << 30;
  const auto free = device.free_memory();
  return free ? *free - std::min(kKeptBack, *free / 10) : host_memory().available;
}

}  // namespace nibble::engine
