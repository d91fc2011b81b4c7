# C tests: each test_*.c below spec/core is a program, and passes when it returns 0 (77: skipped).
# Built by the target tine_tests, not by all. They may include private headers. Those of the folders that know Lua have it too;
# those that include msgpack.h have MessagePack's C library.
file(GLOB_RECURSE test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/spec/core/test_*.c)

add_custom_target(tine_tests)

foreach(source ${test_sources})
  get_filename_component(name ${source} NAME_WE)
  set(with_lua OFF)
  if(source MATCHES "/spec/core/(heap|values|child|fd|bind)/")
    set(with_lua ON)
  endif()
  if(with_lua AND NOT TINE_LUA)
    continue()
  endif()

  file(STRINGS ${source} with_msgpack REGEX "^#include <msgpack\\.h>")
  if(with_msgpack AND NOT TINE_LUA)
    continue()
  endif()

  add_executable(${name} EXCLUDE_FROM_ALL ${source} $<TARGET_OBJECTS:tine_core>)
  tine_compile_options(${name})
  # assert() is for the library; a test must not lose its checks to NDEBUG.
  target_compile_options(${name} PRIVATE -UNDEBUG)
  tine_link_options(${name})
  target_include_directories(${name} PRIVATE
    ${PROJECT_SOURCE_DIR}/core/include ${PROJECT_SOURCE_DIR}/spec/core
    ${PROJECT_BINARY_DIR}/include)
  tine_private_headers(${name})
  target_link_libraries(${name} PRIVATE PkgConfig::EVENT ${tine_system_libs})
  # Failures on demand, see there.
  file(STRINGS ${source} faults REGEX "^#include \"fault(_each)?\\.h\"")
  if(faults)
    foreach(symbol malloc calloc realloc strdup strndup mmap mremap open sendmsg recvmsg)
      target_link_options(${name} PRIVATE -Wl,--wrap=${symbol})
    endforeach()
  endif()
  if(with_lua)
    target_sources(${name} PRIVATE
      $<TARGET_OBJECTS:tine_bind> $<TARGET_OBJECTS:tine_child> $<TARGET_OBJECTS:tine_embed_all>)
    target_include_directories(${name} PRIVATE ${tine_child_includes})
    target_include_directories(${name} SYSTEM PRIVATE ${tine_lua_include})
    target_link_libraries(${name} PRIVATE ${tine_msgpack_libs} ${tine_lua_libs})
    target_link_options(${name} PRIVATE -Wl,--dynamic-list=${PROJECT_SOURCE_DIR}/cmake/template.map)
  endif()
  if(with_msgpack)
    target_include_directories(${name} SYSTEM PRIVATE ${MSGPACK_INCLUDE_DIRS})
    target_link_libraries(${name} PRIVATE ${tine_msgpack_libs})
  endif()
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/spec)
  add_dependencies(tine_tests ${name})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES
    TIMEOUT 600
    SKIP_RETURN_CODE 77
    ENVIRONMENT "TINE=${PROJECT_BINARY_DIR}/tine/tine-template;TINE_BUILD=${PROJECT_BINARY_DIR}")
endforeach()

# The examples in C, as they stand; a word behind the colon: the library.
if(TINE_LUA AND NOT TINE_LUAROCKS)
  foreach(entry pool:tine embed:tine-lua fork_self:tine-lua)
    string(REPLACE ":" ";" entry ${entry})
    list(GET entry 0 name)
    list(GET entry 1 library)
    add_executable(example_${name} EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/examples/${name}.c)
    tine_compile_options(example_${name})
    tine_link_options(example_${name})
    target_link_libraries(example_${name} PRIVATE tine::${library})
    set_target_properties(example_${name} PROPERTIES
      OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
    add_dependencies(tine_tests example_${name})
  endforeach()
endif()

# C programs against what `cmake --install` installs, by pkg-config and find_package. They are
# linked without sanitizers, and so cannot use a library that needs them.
if(TINE_LUA AND NOT TINE_SANITIZE AND NOT TINE_LUAROCKS)
  add_test(NAME test_install
    COMMAND ${PROJECT_SOURCE_DIR}/tools/test-install --build ${PROJECT_BINARY_DIR} --only c)
  set_tests_properties(test_install PROPERTIES TIMEOUT 600)
endif()

# lua_host runs a Lua script as lua5.4 does, but has the sanitizers in it, which a module with
# sanitizers needs of its host.
if(TINE_LUA)
  add_executable(lua_host EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/spec/core/lua_host.c)
  tine_compile_options(lua_host)
  tine_link_options(lua_host)
  target_include_directories(lua_host SYSTEM PRIVATE ${tine_lua_include})
  target_link_libraries(lua_host PRIVATE ${tine_lua_libs})
  target_link_options(lua_host PRIVATE -Wl,--dynamic-list=${PROJECT_SOURCE_DIR}/cmake/template.map)
  add_dependencies(tine_tests lua_host)
  set_target_properties(lua_host PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/spec)
endif()

# For specs: a system that refuses some calls. For tools/run-tests: what ends a test that hangs.
foreach(name refuse session)
  add_executable(${name} EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/spec/core/${name}.c)
  tine_compile_options(${name})
  if(TINE_SANITIZE) # they are no programs of tine's; refuse installs its filter by itself
    target_compile_options(${name} PRIVATE -fno-sanitize=all)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/spec)
  add_dependencies(tine_tests ${name})
endforeach()

# For specs: the module with another transport in the place of that for local processes, and the
# program at its far end. See spec/core/far/far.h.
if(TINE_LUA)
  add_library(far_module MODULE EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/spec/core/far/near.c
    $<TARGET_OBJECTS:tine_core> $<TARGET_OBJECTS:tine_bind> $<TARGET_OBJECTS:tine_child>
    $<TARGET_OBJECTS:tine_embed_templates>)
  add_executable(far_end EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/spec/core/far/far_end.c
    $<TARGET_OBJECTS:tine_core>)
  foreach(target far_module far_end)
    tine_compile_options(${target})
    tine_link_options(${target})
    tine_private_headers(${target})
    target_include_directories(${target} PRIVATE
      ${PROJECT_SOURCE_DIR}/core/include ${PROJECT_BINARY_DIR}/include)
    target_link_libraries(${target} PRIVATE PkgConfig::EVENT ${tine_system_libs})
    add_dependencies(tine_tests ${target})
  endforeach()
  target_link_libraries(far_module PRIVATE PkgConfig::MSGPACK m)
  target_link_options(far_module PRIVATE -Wl,--wrap=tine__proc_exec -Wl,-z,nodelete
    -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/module.map)
  set_target_properties(far_module PROPERTIES
    PREFIX "" OUTPUT_NAME core SUFFIX .so LINKER_LANGUAGE C
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/spec/far/tine)
  set_target_properties(far_end PROPERTIES
    LINKER_LANGUAGE C RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/spec/far)
endif()
