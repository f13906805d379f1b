// In a program that links this, everything on the heap (new, std::vector) can be read and written by the
// GPU where it lies: the tests of the CPU's kernels then run on a GPU as they are.
#pragma once

namespace nibble::kernels::testing {

// Before the first kernel. False if CUDA refuses.
bool lock_heap_pages();

}  // namespace nibble::kernels::testing
