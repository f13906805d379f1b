// Memory of this machine, as far as this process may use it.
#pragma once

#include <cstdint>

#include "kernels/device.h"

namespace nibble::engine {

struct HostMemory {
  std::uint64_t total = 0;      // bytes; the cgroup's limit if that is lower
  std::uint64_t available = 0;  // without swapping; file pages in the page cache count as available
};

HostMemory host_memory();

// Bytes the engine may use on `device`: all that is free; on a GPU a tenth, but at most 2 GiB, is left to
// scratch, code, and what allocation loses.
std::uint64_t available_memory(const kernels::Device& device);

}  // namespace nibble::engine
