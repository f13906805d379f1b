# Warnings are errors in our own code; third-party headers are included as system headers.
add_library(nibble_warnings INTERFACE)
set(cxx_warnings -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wcast-qual -Wundef -Wno-missing-field-initializers
  -Werror)
# nvcc's own generated host code is not pedantic, and it does not see uses in constant expressions (177).
set(cuda_warnings -Werror=all-warnings -diag-suppress=177 -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers)
target_compile_options(nibble_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${cxx_warnings}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_warnings}>")
