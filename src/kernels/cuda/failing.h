// For tests of failures: allocations that do not succeed.
#pragma once

#include <cstdint>

namespace nibble::kernels::cuda {

// The n-th allocation from now on (0: the next) of device or page-locked memory, or for a recorded step,
// fails as if there were no memory; negative: none does.
void fail_allocation(std::int64_t n) noexcept;
// Whether one is still to fail.
bool allocation_will_fail() noexcept;

// Counts an allocation; true if it must fail.
bool allocation_fails() noexcept;

}  // namespace nibble::kernels::cuda
