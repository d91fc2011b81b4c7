# What needs Lua: the module tine.core and the executable tine-template.

# Headers: LuaRocks names their folder, else pkg-config does.
if(LUA_INCDIR)
  set(tine_lua_include ${LUA_INCDIR})
endif()
pkg_search_module(LUA54 lua5.4 lua-5.4 lua54)
if(NOT tine_lua_include)
  if(NOT LUA54_FOUND)
    message(FATAL_ERROR "Lua 5.4 is not there (Debian: liblua5.4-dev); -DTINE_LUA=OFF builds libtine only")
  endif()
  set(tine_lua_include ${LUA54_INCLUDE_DIRS})
endif()

# Libraries for tine-template: static, since that starts faster, else shared.
set(tine_lua_hints ${LUA_LIBDIR} ${LUA54_LIBRARY_DIRS})
find_library(TINE_LUA_STATIC NAMES liblua5.4.a liblua-5.4.a liblua54.a HINTS ${tine_lua_hints})
find_library(TINE_LUA_SHARED NAMES lua5.4 lua-5.4 lua54 lua HINTS ${tine_lua_hints})
find_library(TINE_EVENT_STATIC NAMES libevent_core.a HINTS ${EVENT_LIBRARY_DIRS})

# MessagePack; the package has had both names.
pkg_search_module(MSGPACK REQUIRED IMPORTED_TARGET msgpack-c msgpack)
find_library(TINE_MSGPACK_STATIC NAMES libmsgpackc.a libmsgpack-c.a HINTS ${MSGPACK_LIBRARY_DIRS})
mark_as_advanced(TINE_LUA_STATIC TINE_LUA_SHARED TINE_EVENT_STATIC TINE_MSGPACK_STATIC)

if(TINE_STATIC_DEPS AND TINE_LUA_STATIC)
  # All of Lua, whether or not we use it: C modules that are loaded later may.
  set(tine_lua_libs -Wl,--whole-archive ${TINE_LUA_STATIC} -Wl,--no-whole-archive -Wl,--as-needed c m -Wl,--no-as-needed ${tine_system_libs})
elseif(TINE_LUA_SHARED)
  set(tine_lua_libs ${TINE_LUA_SHARED} m ${tine_system_libs})
else()
  message(FATAL_ERROR "no library of Lua 5.4 found; set TINE_LUA_SHARED or TINE_LUA_STATIC")
endif()
if(TINE_STATIC_DEPS AND TINE_EVENT_STATIC)
  set(tine_event_libs ${TINE_EVENT_STATIC})
else()
  set(tine_event_libs PkgConfig::EVENT)
endif()

if(TINE_STATIC_DEPS AND TINE_MSGPACK_STATIC)
  set(tine_msgpack_libs ${TINE_MSGPACK_STATIC})
else()
  set(tine_msgpack_libs PkgConfig::MSGPACK)
endif()

# The Lua side's objects, for the module, the executable and the tests alike.
file(GLOB bind_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/lua/bind/*.c
  ${PROJECT_SOURCE_DIR}/lua/fd/*.c ${PROJECT_SOURCE_DIR}/core/values/*.c)
file(GLOB child_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/core/child/*.c
  ${PROJECT_SOURCE_DIR}/core/heap/*.c)
# Of the executable alone: its main, and what keeps libm out of it.
set(template_sources ${PROJECT_SOURCE_DIR}/lua/program/template_main.c ${PROJECT_SOURCE_DIR}/lua/program/libm.c)
# Of programs that are interpreters, and not of the module.
set(program_source ${PROJECT_SOURCE_DIR}/lua/program/program.c)
set_source_files_properties(${PROJECT_SOURCE_DIR}/lua/program/libm.c PROPERTIES COMPILE_OPTIONS -fno-builtin)

# The binding sees of the core the public header, and what core/child/module.h says: see
# tools/check-layers.
add_library(tine_bind OBJECT ${bind_sources})
tine_compile_options(tine_bind)
target_include_directories(tine_bind PRIVATE
  ${PROJECT_SOURCE_DIR}/core/include ${PROJECT_BINARY_DIR}/include)
tine_private_headers(tine_bind)
target_include_directories(tine_bind SYSTEM PRIVATE ${tine_lua_include} ${MSGPACK_INCLUDE_DIRS})

set(tine_child_includes
  ${PROJECT_SOURCE_DIR}/core/include ${PROJECT_BINARY_DIR}/include)
add_library(tine_child OBJECT ${child_sources})
tine_compile_options(tine_child)
target_include_directories(tine_child PRIVATE ${tine_child_includes})
tine_private_headers(tine_child)
target_include_directories(tine_child SYSTEM PRIVATE ${tine_lua_include})
target_link_libraries(tine_child PRIVATE PkgConfig::EVENT)

tine_lua_files(tine_all_lua)
set(tine_template_lua ${tine_all_lua})
list(FILTER tine_template_lua INCLUDE REGEX "^tine\\.template\\.")
tine_embed(tine_embed_all ${tine_all_lua})
tine_embed(tine_embed_templates ${tine_template_lua})

# The module lies beside the executable, as when installed: one finds the other there.
# It is not linked with Lua, whose symbols the interpreter that loads it has.
add_library(tine_lua MODULE
  $<TARGET_OBJECTS:tine_core> $<TARGET_OBJECTS:tine_bind> $<TARGET_OBJECTS:tine_child>
  $<TARGET_OBJECTS:tine_embed_templates>)
tine_link_options(tine_lua)
set_target_properties(tine_lua PROPERTIES
  PREFIX "" OUTPUT_NAME core SUFFIX .so LINKER_LANGUAGE C
  LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tine
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/module.map)
target_link_libraries(tine_lua PRIVATE PkgConfig::EVENT PkgConfig::MSGPACK m ${tine_system_libs})
target_link_options(tine_lua PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/module.map)

# Closing the Lua state does not unload it: a fork of the program serves in here, and may close
# the state as it leaves; and leaks are found after that, with the names of our functions.
target_link_options(tine_lua PRIVATE -Wl,-z,nodelete)

add_executable(tine-template ${template_sources} ${program_source}
  $<TARGET_OBJECTS:tine_core> $<TARGET_OBJECTS:tine_bind> $<TARGET_OBJECTS:tine_child>
  $<TARGET_OBJECTS:tine_embed_all>)
tine_compile_options(tine-template)
tine_link_options(tine-template)
set_target_properties(tine-template PROPERTIES
  POSITION_INDEPENDENT_CODE OFF LINKER_LANGUAGE C
  RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tine)
target_include_directories(tine-template PRIVATE ${tine_child_includes})
tine_private_headers(tine-template)
target_include_directories(tine-template SYSTEM PRIVATE ${tine_lua_include})
target_compile_options(tine-template PRIVATE ${TINE_TEMPLATE_CFLAGS})
target_link_libraries(tine-template PRIVATE ${tine_event_libs} ${tine_msgpack_libs} ${tine_lua_libs})
# Before it loads a C module, Lua has libm loaded: see libm.c.
target_link_options(tine-template PRIVATE -Wl,--wrap=dlopen)

# C modules find Lua's symbols in the executable, and no others.
target_link_options(tine-template PRIVATE
  ${TINE_TEMPLATE_LDFLAGS} -Wl,--dynamic-list=${PROJECT_SOURCE_DIR}/cmake/template.map)
set_target_properties(tine-template PROPERTIES
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/template.map)

if(NOT TINE_LUAROCKS)
  include(TineLuaLibrary)
endif()

# tine-template is looked for beside the module, and in tine/ beside libtine.
if(TINE_LUAROCKS)
  set(tine_cmod_dir ${LIBDIR})
  set(tine_lmod_dir ${LUADIR})
  install(TARGETS tine-template RUNTIME DESTINATION ${tine_cmod_dir}/tine)
else()
  set(tine_cmod_dir ${CMAKE_INSTALL_LIBDIR}/lua/5.4)
  set(tine_lmod_dir ${CMAKE_INSTALL_DATADIR}/lua/5.4)
  install(TARGETS tine-template RUNTIME DESTINATION ${CMAKE_INSTALL_LIBDIR}/tine)
  install(CODE "
    set(folder \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${tine_cmod_dir}/tine\")
    file(MAKE_DIRECTORY \"\${folder}\")
    file(CREATE_LINK ../../../tine/tine-template \"\${folder}/tine-template\" SYMBOLIC)
    list(APPEND CMAKE_INSTALL_MANIFEST_FILES \"\${folder}/tine-template\")")
  # Under LuaRocks, build.install.bin of the rockspec does this.
  install(PROGRAMS ${PROJECT_SOURCE_DIR}/lua/bin/tine DESTINATION ${CMAKE_INSTALL_BINDIR} OPTIONAL)
endif()
if(NOT TINE_LUAROCKS)
  install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/LICENSE
                ${PROJECT_SOURCE_DIR}/CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs ${PROJECT_SOURCE_DIR}/examples
    DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()
install(TARGETS tine_lua LIBRARY DESTINATION ${tine_cmod_dir}/tine)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/lua/tine/ DESTINATION ${tine_lmod_dir}/tine
  FILES_MATCHING PATTERN "*.lua")
