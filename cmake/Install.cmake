# What `cmake --install` puts where: headers, libraries, the command, man pages, and how other builds find us
# (pkg-config and a CMake package). Every path in the installed files is relative to the file, so the tree may
# be moved or installed with another --prefix.
include(CMakePackageConfigHelpers)

install(DIRECTORY include/freehold DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Freehold)
file(RELATIVE_PATH prefix_from_pkgconfig ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" prefix_from_pkgconfig "${prefix_from_pkgconfig}")

set(installed_libraries)
foreach(library freehold freehold-malloc freehold-trace)
  if(TARGET ${library})
    list(APPEND installed_libraries ${library} ${library}-static)
    configure_file(cmake/${library}.pc.in ${library}.pc @ONLY)
    install(FILES ${PROJECT_BINARY_DIR}/${library}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  endif()
endforeach()
if(installed_libraries)
  install(TARGETS ${installed_libraries} EXPORT FreeholdTargets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT FreeholdTargets NAMESPACE Freehold:: DESTINATION ${package_dir})
  configure_package_config_file(cmake/FreeholdConfig.cmake.in FreeholdConfig.cmake
                                INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(FreeholdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/FreeholdConfig.cmake
          ${PROJECT_BINARY_DIR}/FreeholdConfigVersion.cmake DESTINATION ${package_dir})
endif()

if(TARGET freehold-debug)
  install(TARGETS freehold-debug LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_SKIP)
endif()
if(TARGET freehold-record)
  install(TARGETS freehold-record LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_SKIP)
endif()
install(TARGETS freehold-freestanding ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET freehold-command)
  install(TARGETS freehold-command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
file(GLOB man_pages CONFIGURE_DEPENDS docs/man/*.1)
if(man_pages)
  install(FILES ${man_pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
file(GLOB zsh_completion CONFIGURE_DEPENDS cli/completion/_freehold)
install(FILES ${zsh_completion} DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
file(GLOB fish_completion CONFIGURE_DEPENDS cli/completion/*.fish)
install(FILES ${fish_completion} DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES cli/completion/freehold.bash RENAME freehold
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
