# Where programs that have the library in them, and lie elsewhere, find tine-template.
set_source_files_properties(${PROJECT_SOURCE_DIR}/core/process/local/exec.c PROPERTIES
  COMPILE_DEFINITIONS "TINE__INSTALLED_IN=\"${CMAKE_INSTALL_FULL_LIBDIR}/tine\"")

# libtine for C programs: shared and static, header, tine.pc, CMake package (tine::tine).
include(CMakePackageConfigHelpers)

foreach(kind shared static)
  string(TOUPPER ${kind} KIND)
  add_library(tine_${kind} ${KIND} $<TARGET_OBJECTS:tine_core>)
  set_target_properties(tine_${kind} PROPERTIES
    OUTPUT_NAME tine
    LINKER_LANGUAGE C
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  target_include_directories(tine_${kind} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/core/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  tine_link_options(tine_${kind})
endforeach()
target_link_libraries(tine_shared PRIVATE PkgConfig::EVENT ${tine_system_libs})
# Plain names, which also serve an installed tree on another machine.
target_link_libraries(tine_static INTERFACE ${EVENT_LIBRARIES} pthread ${CMAKE_DL_LIBS})

set_target_properties(tine_shared PROPERTIES EXPORT_NAME tine)
set_target_properties(tine_static PROPERTIES EXPORT_NAME tine-static)
add_library(tine::tine ALIAS tine_shared)
add_library(tine::tine-static ALIAS tine_static)

install(TARGETS tine_shared tine_static EXPORT tine-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${PROJECT_SOURCE_DIR}/core/include/tine.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(tine_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tine)
install(EXPORT tine-targets NAMESPACE tine:: DESTINATION ${tine_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/tine-config.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/tine-config.cmake INSTALL_DESTINATION ${tine_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/tine-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/tine-config.cmake
              ${PROJECT_BINARY_DIR}/cmake/tine-config-version.cmake
  DESTINATION ${tine_package_dir})

# From where the .pc file lies up to the prefix, so that the tree can be moved.
file(RELATIVE_PATH tine_pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/tine.pc.in ${PROJECT_BINARY_DIR}/tine.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tine.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
