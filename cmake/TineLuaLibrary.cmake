# libtine-lua for C programs that have Lua: libtine and the Lua side, shared and static.
foreach(kind shared static)
  string(TOUPPER ${kind} KIND)
  add_library(tine_lua_${kind} ${KIND} ${program_source}
    $<TARGET_OBJECTS:tine_core> $<TARGET_OBJECTS:tine_bind> $<TARGET_OBJECTS:tine_child>
    $<TARGET_OBJECTS:tine_embed_all>)
  tine_compile_options(tine_lua_${kind})
  tine_private_headers(tine_lua_${kind})
  set_target_properties(tine_lua_${kind} PROPERTIES
    OUTPUT_NAME tine-lua
    LINKER_LANGUAGE C
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  target_include_directories(tine_lua_${kind} PRIVATE ${tine_child_includes}
    INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/core/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_include_directories(tine_lua_${kind} SYSTEM PUBLIC ${tine_lua_include})
  tine_link_options(tine_lua_${kind})
endforeach()
if(TINE_LUA_SHARED)
  set(tine_lua_shared_libs ${TINE_LUA_SHARED})
else()
  set(tine_lua_shared_libs ${TINE_LUA_STATIC})
endif()
target_link_libraries(tine_lua_shared
  PUBLIC ${tine_lua_shared_libs} PRIVATE PkgConfig::EVENT PkgConfig::MSGPACK m ${tine_system_libs})
# Plain names, which also serve an installed tree on another machine.
target_link_libraries(tine_lua_static
  INTERFACE ${LUA54_LIBRARIES} ${EVENT_LIBRARIES} ${MSGPACK_LIBRARIES} m pthread ${CMAKE_DL_LIBS})

set_target_properties(tine_lua_shared PROPERTIES EXPORT_NAME tine-lua)
set_target_properties(tine_lua_static PROPERTIES EXPORT_NAME tine-lua-static)
add_library(tine::tine-lua ALIAS tine_lua_shared)
add_library(tine::tine-lua-static ALIAS tine_lua_static)
install(TARGETS tine_lua_shared tine_lua_static EXPORT tine-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

set(tine_lua_package ${LUA54_MODULE_NAME})
set(tine_msgpack_package ${MSGPACK_MODULE_NAME})
configure_file(${PROJECT_SOURCE_DIR}/cmake/tine-lua.pc.in ${PROJECT_BINARY_DIR}/tine-lua.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tine-lua.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
