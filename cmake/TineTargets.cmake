# What all C targets have in common.

set(tine_warnings
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wformat=2 -Wundef)
if(TINE_WERROR)
  list(APPEND tine_warnings -Werror)
endif()

set(tine_sanitizers)
if(TINE_SANITIZE)
  set(tine_sanitizers -fsanitize=address,undefined)
endif()

# Calls, 64 under way, two CPUs: with both 1.09 times those with -O2 alone, by rpc and by pool; with
# either 1.02. A new worker takes as long as before.
set(tine_optimised "")
if(NOT TINE_SANITIZE)
  set(tine_optimised $<$<CONFIG:RelWithDebInfo>:-O3>)
  include(CheckCCompilerFlag)
  check_c_compiler_flag(-fno-plt TINE_HAS_NO_PLT)
  if(TINE_HAS_NO_PLT)
    list(APPEND tine_optimised -fno-plt)
  endif()
endif()

# C11 with the system's extensions, hidden symbols, warnings, sanitizers.
function(tine_compile_options target)
  set_target_properties(${target} PROPERTIES
    C_STANDARD 11
    C_STANDARD_REQUIRED ON
    C_EXTENSIONS ON
    C_VISIBILITY_PRESET hidden
    POSITION_INDEPENDENT_CODE ON)
  # Empty, so that a file which defines it too does not redefine it.
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE=)
  target_compile_options(${target} PRIVATE ${tine_warnings} ${tine_optimised})
  if(TINE_SANITIZE)
    target_compile_options(${target} PRIVATE
      ${tine_sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  endif()
endfunction()

# For "quoted" includes only: a header of ours may be called as one of the system's.
function(tine_private_headers target)
  target_compile_options(${target} PRIVATE
    -iquote${PROJECT_SOURCE_DIR}/core -iquote${PROJECT_SOURCE_DIR}/lua)
endfunction()

# For what is linked: shared libraries, modules, executables.
function(tine_link_options target)
  if(TINE_SANITIZE)
    target_link_options(${target} PRIVATE ${tine_sanitizers})
  endif()
endfunction()
