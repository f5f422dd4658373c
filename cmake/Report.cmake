# The offline page of report/, made with npm where that is there (report/build.sh); without it everything else is built,
# and the command says what is missing when a page is asked for.
add_custom_target(freehold-report ALL COMMAND bash ${PROJECT_SOURCE_DIR}/report/build.sh ${PROJECT_BINARY_DIR}/report
                  COMMENT "The offline page" VERBATIM)
install(FILES ${PROJECT_BINARY_DIR}/report/report.html DESTINATION ${CMAKE_INSTALL_DATADIR}/freehold OPTIONAL)
