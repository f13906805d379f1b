# NIBBLE_SANITIZE=address;undefined or thread instruments everything we compile.
if(NIBBLE_SANITIZE)
  string(REPLACE ";" "," sanitizers "${NIBBLE_SANITIZE}")
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${sanitizers})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-maybe-uninitialized)  # instrumented code misleads it (GCC's manual says so)
  endif()
endif()

# The fuzz targets link -fsanitize=fuzzer themselves; everything else only counts its edges.
if(NIBBLE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "NIBBLE_FUZZ needs clang: use the preset 'fuzz'")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
