# Writes OUTPUT, a header with the commit of SOURCE_DIR, and touches it only when the commit changed.
# Run by the build: cmake -DSOURCE_DIR=... -DOUTPUT=... -P git_commit.cmake. Works outside git.
set(commit unknown)
find_program(git git)
if(git)
  execute_process(COMMAND ${git} -C ${SOURCE_DIR} rev-parse --show-toplevel
                  OUTPUT_VARIABLE top RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(REAL_PATH ${SOURCE_DIR} source_dir)
  # An unpacked archive inside somebody else's repository is not that repository.
  if(NOT failed AND top STREQUAL source_dir)
    execute_process(COMMAND ${git} -C ${SOURCE_DIR} rev-parse --short HEAD
                    OUTPUT_VARIABLE hash RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(NOT failed)
      set(commit ${hash})
      execute_process(COMMAND ${git} -C ${SOURCE_DIR} diff-index --quiet HEAD --
                      RESULT_VARIABLE dirty OUTPUT_QUIET ERROR_QUIET)
      if(dirty)
        string(APPEND commit "+dirty")
      endif()
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n\ninline constexpr const char* kGitCommit = \"${commit}\";\n")
