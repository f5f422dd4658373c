# Versioned symbols. A list names what a shared library exports, one symbol a line with its version:
#
#   fh_heap_create FREEHOLD_0.1       public: declared in include/freehold/
#   fh_heap_refill FREEHOLD_PRIVATE   for our own libraries only, may change at any time
#   malloc                            no version: takes the place of libc's, whatever version was asked for
#
# The linker script is made from the list, and scripts/symbols.sh compares the list with what the built library
# really exports, in both directions.
function(freehold_versioned_symbols target list)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${list})
  if(NOT EXISTS ${list})
    return()
  endif()
  file(STRINGS ${list} lines REGEX "^[A-Za-z_]")
  set(versions)
  foreach(line ${lines})
    if(line MATCHES "^([A-Za-z0-9_]+)[ \t]+([A-Za-z0-9_.]+)$")
      list(APPEND versions ${CMAKE_MATCH_2})
      string(APPEND globals_${CMAKE_MATCH_2} "    ${CMAKE_MATCH_1};\n")
    endif()
  endforeach()
  list(REMOVE_DUPLICATES versions)
  list(SORT versions)
  # The marks that the linker puts around a section of ours (FH_FAST) are hidden, and yet it would list them.
  set(marks "  local:\n    __start_fh_fast;\n    __stop_fh_fast;\n")
  set(script)
  if(NOT versions)
    set(script "{\n${marks}};\n")
  endif()
  foreach(version ${versions})
    string(APPEND script "${version} {\n  global:\n${globals_${version}}${marks}};\n")
    set(marks "")
  endforeach()
  set(map ${PROJECT_BINARY_DIR}/${target}.map)
  file(CONFIGURE OUTPUT ${map} CONTENT "${script}" @ONLY)
  target_link_options(${target} PRIVATE -Wl,--version-script=${map})
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${map})
endfunction()
