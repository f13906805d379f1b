# Warnings of our own code; third-party headers are included as system headers. They are errors with the compilers
# that CI builds with (Debian 12's): others warn of more, and wrongly at times (GCC 13's array-bounds), and must not
# keep anyone from building.
set(is_ci_compiler OFF)
if((CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    OR (CMAKE_CXX_COMPILER_ID STREQUAL Clang AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 15))
  set(is_ci_compiler ON)
endif()
option(NIBBLE_WARNINGS_AS_ERRORS "Stop at warnings" ${is_ci_compiler})

add_library(nibble_warnings INTERFACE)
set(cxx_warnings -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wcast-qual -Wundef -Wno-missing-field-initializers)
# nvcc's own generated host code is not pedantic, and it does not see uses in constant expressions (177).
set(cuda_warnings -diag-suppress=177 -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers)
if(NIBBLE_WARNINGS_AS_ERRORS)
  list(APPEND cxx_warnings -Werror)
  list(APPEND cuda_warnings -Werror=all-warnings)
endif()
target_compile_options(nibble_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${cxx_warnings}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_warnings}>")
