# Warnings are errors in our own code; third-party headers are included as system headers.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wcast-qual -Wundef -Wno-missing-field-initializers -Werror)
