# Lua files as data in an executable.

# tine_lua_files(RESULT): all Lua that belongs to tine, as a list of NAME=PATH, where NAME is
# what `require` takes: "tine", "tine.go", "tine.template.x".
function(tine_lua_files result)
  set(list)
  foreach(place "lua/tine|tine" "templates|tine.template")
    string(REPLACE "|" ";" place ${place})
    list(GET place 0 folder)
    list(GET place 1 prefix)
    file(GLOB_RECURSE files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.lua)
    list(SORT files)
    foreach(file ${files})
      file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/${folder} ${file})
      string(REGEX REPLACE "\\.lua$" "" name ${name})
      string(REPLACE "/" "." name ${name})
      if(name STREQUAL "init")
        set(name ${prefix})
      else()
        string(REGEX REPLACE "\\.init$" "" name ${name})
        set(name ${prefix}.${name})
      endif()
      list(APPEND list "${name}=${file}")
    endforeach()
  endforeach()
  set(${result} "${list}" PARENT_SCOPE)
endfunction()

# tine_embed(TARGET NAME=PATH...): an object library that defines tine_embedded[]
# (core/child/embed.h), written anew whenever one of the files changes.
function(tine_embed target)
  set(output ${PROJECT_BINARY_DIR}/embed/${target}.c)
  set(paths)
  foreach(entry ${ARGN})
    string(REGEX REPLACE "^[^=]*=" "" path ${entry})
    list(APPEND paths ${path})
  endforeach()
  # A file added or removed changes the list's text, and so the output.
  string(REPLACE ";" "\n" text "${ARGN}")
  file(CONFIGURE OUTPUT ${output}.list CONTENT "${text}\n" @ONLY)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DLIST=${output}.list -DOUTPUT=${output}
            -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${output}.list ${paths} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    COMMENT "Embedding Lua files"
    VERBATIM)
  add_library(${target} OBJECT ${output})
  tine_compile_options(${target})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/core)
endfunction()
