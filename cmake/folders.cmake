# nibble_folder(NAME [LINK libs...] [EXCLUDE regex]): one static library per folder of src/, from its .cpp files.
# What a folder links is what it may include; tools/check_layers.py checks the includes themselves.
function(nibble_folder name)
  cmake_parse_arguments(ARG "" "EXCLUDE" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*/*.cpp)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${ARG_EXCLUDE})
  endif()
  if(NOT sources)  # a folder of headers only
    file(TOUCH ${CMAKE_CURRENT_BINARY_DIR}/headers_only.cpp)
    set(sources ${CMAKE_CURRENT_BINARY_DIR}/headers_only.cpp)
  endif()
  add_library(nibble_${name} STATIC ${sources})
  target_include_directories(nibble_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(nibble_${name} PUBLIC ${ARG_LINK} fmt::fmt PRIVATE nibble_warnings)
endfunction()

# nibble_test(FOLDER LINK libs...): one test executable per folder of tests/, run by CTest as a whole.
function(nibble_test name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_executable(${name}_test ${sources})
  target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name}_test PRIVATE NIBBLE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name}_test PRIVATE ${ARG_LINK} nibble_test_support GTest::gtest GTest::gmock
                        GTest::gtest_main nibble_warnings)
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()
