# NIBBLE_SANITIZE=address;undefined or thread instruments everything we compile.
if(NIBBLE_SANITIZE)
  string(REPLACE ";" "," sanitizers "${NIBBLE_SANITIZE}")
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${sanitizers})
endif()
