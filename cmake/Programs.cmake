# Everything that is built to be run here and is never installed: tests, benchmarks, fuzzers, examples.
#
#   tests/unit/test_*.c     a cmocka program each, linked with the static library, may include lib/
#   tests/unit/test_*.cc    the same for freehold.hpp
#   tests/system/*.c        plain programs for the scripts, nothing of ours linked, but libfreehold-trace to
#                           trace_*.c; lib*.c become shared objects
#   tests/system/*.sh       tests, but for lib.sh, which they source; BUILD_DIR, SOURCE_DIR and FREEHOLD_LIB tell
#                           where things are; exit 77: skipped
#   tests/guard/            the table of bad programs with good twins (cases) and who judges them (judge); for the scripts
#                           of tests/system named guard_*
#   bench/own_*.c           programs that measure a room and link the static library; the others are for every
#                           allocator and are built by bench/build.sh, with the same flags whatever is built here
#   fuzz/*.c                libFuzzer targets
#   examples/*.c            what a user would write
#
# A name with _slow in it makes a test part of the slow tier, _timing keeps the machine to itself.
enable_testing()

function(freehold_program folder source)
  get_filename_component(name ${source} NAME_WE)
  if(name MATCHES "^lib")
    add_library(${folder}-${name} MODULE ${source})
    set_target_properties(${folder}-${name} PROPERTIES PREFIX "")
  else()
    add_executable(${folder}-${name} ${source})
  endif()
  set_target_properties(${folder}-${name} PROPERTIES OUTPUT_NAME ${name}
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/${folder}
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/${folder})
  # Tests assert in every build, and a compiler that knows malloc would remove the calls they are about.
  target_compile_options(${folder}-${name} PRIVATE -UNDEBUG -fno-builtin-malloc -fno-builtin-calloc
                         -fno-builtin-realloc -fno-builtin-free)
  target_link_options(${folder}-${name} PRIVATE -Wl,--as-needed)
  target_link_libraries(${folder}-${name} PRIVATE ${ARGN} Threads::Threads dl m)
endfunction()

function(freehold_test name)
  set(labels quick)
  set(timeout 120)
  if(name MATCHES "_slow")
    set(labels slow)
    set(timeout 600)
  endif()
  set(serial OFF)
  if(name MATCHES "_timing")
    set(serial ON)
  endif()
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES LABELS ${labels} TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    RUN_SERIAL ${serial} ENVIRONMENT
    "BUILD_DIR=${PROJECT_BINARY_DIR};SOURCE_DIR=${PROJECT_SOURCE_DIR};FREEHOLD_LIB=${PROJECT_BINARY_DIR}/libfreehold-malloc.so;UBSAN_OPTIONS=print_stacktrace=1")
endfunction()

file(GLOB unit_sources CONFIGURE_DEPENDS tests/unit/test_*.c tests/unit/test_*.cc)
if(unit_sources AND NOT FREEHOLD_FUZZ AND TARGET freehold-static)
  if(NOT CMOCKA_FOUND)
    message(FATAL_ERROR "The unit tests need cmocka (Debian: libcmocka-dev pkg-config); 'make setup' "
                        "installs it, -DFREEHOLD_TESTS=OFF builds without tests.")
  endif()
  if(NOT PNG_FOUND)
    list(FILTER unit_sources EXCLUDE REGEX "heapmap")
  endif()
  # The allocators with the bugs that test_place_plants sows; they stand in for those of the static library.
  file(GLOB planted_sources CONFIGURE_DEPENDS lib/place/*.c lib/heap/*.c)
  add_library(freehold-planted OBJECT ${planted_sources})
  target_include_directories(freehold-planted PRIVATE lib)
  target_compile_options(freehold-planted PRIVATE ${FREEHOLD_LIB_FLAGS})
  target_compile_definitions(freehold-planted PRIVATE FH_PLANTS)
  # The wrappers under names of their own, with the test in place of start.c and of the guard.
  set(wrapper_sources ${debug_sources})
  list(FILTER wrapper_sources EXCLUDE REGEX "/start\\.c$")
  add_library(freehold-wrapped OBJECT ${wrapper_sources})
  target_include_directories(freehold-wrapped PRIVATE lib)
  target_compile_options(freehold-wrapped PRIVATE ${FREEHOLD_WRAPPER_FLAGS})
  target_compile_definitions(freehold-wrapped PRIVATE FH_DEBUG_TEST)
  foreach(source ${unit_sources})
    get_filename_component(name ${source} NAME_WE)
    set(more)
    if(name MATCHES "^test_lab_")
      set(more freehold-lab)
    elseif(name MATCHES "heapmap")
      set(more freehold-heapmap)
    elseif(name MATCHES "^test_tools_")
      if(NOT TARGET freehold-tools)
        continue()
      endif()
      set(more freehold-tools)
    elseif(name STREQUAL test_place_plants)
      set(more $<TARGET_OBJECTS:freehold-planted>)
    elseif(name STREQUAL test_debug_wrappers)
      set(more $<TARGET_OBJECTS:freehold-wrapped>)
    endif()
    freehold_program(tests ${source} ${more} freehold-static PkgConfig::CMOCKA)
    if(name STREQUAL test_guard_fence)
      target_link_options(tests-${name} PRIVATE -Wl,--wrap=fh_error) # it looks at what is told
      target_compile_definitions(tests-${name} PRIVATE _GNU_SOURCE)
    endif()
    target_include_directories(tests-${name} PRIVATE lib tests tests/unit ${PROJECT_SOURCE_DIR})
    if(TARGET freehold-trace-static)
      target_link_libraries(tests-${name} PRIVATE freehold-trace-static)
    endif()
    # ThreadSanitizer does not follow the swapcontext and longjmp of the comparison with libdw.
    if(DW_FOUND AND NOT FREEHOLD_SANITIZE MATCHES thread)
      target_link_libraries(tests-${name} PRIVATE PkgConfig::DW)
      target_compile_definitions(tests-${name} PRIVATE HAVE_LIBDW=1)
    endif()
    # It forks for each failing call, which takes minutes under ThreadSanitizer; its threads run one after another.
    # Walks over damaged stacks read red zones, which AddressSanitizer forbids; it runs in the other builds.
    # The planted bugs are found by sequences of one thread, and so is what the meshing heap may do wrong, whose
    # forked children ThreadSanitizer does not survive. A scan stops threads by handlers that it does not know of, and
    # its own thread, which blocks all signals; under AddressSanitizer it would read terabytes of shadow memory. In
    # the relay a writer that was given up may still write to a slot that is another's, and learns of it afterwards.
    if(NOT (name MATCHES "^test_(heap_failures|place_plants|place_mesh|scan|os_relay)$" AND FREEHOLD_SANITIZE MATCHES thread) AND
       NOT (name STREQUAL test_scan AND FREEHOLD_SANITIZE MATCHES address) AND
       NOT (name STREQUAL test_stack_walk AND FREEHOLD_SANITIZE MATCHES address))
      freehold_test(unit.${name} $<TARGET_FILE:tests-${name}>)
    endif()
  endforeach()
endif()

if(FREEHOLD_ENTRY_POINTS AND NOT FREEHOLD_COVERAGE)
  add_executable(tests-freestanding tests/freestanding/freestanding.c)
  target_compile_options(tests-freestanding PRIVATE -ffreestanding -fno-stack-protector -fno-pie)
  target_compile_definitions(tests-freestanding PRIVATE FH_FREESTANDING)
  target_link_options(tests-freestanding PRIVATE -nostdlib -static -no-pie)
  # All of its objects, also those that the program would not ask for.
  target_link_libraries(tests-freestanding PRIVATE
                        -Wl,--whole-archive freehold-freestanding -Wl,--no-whole-archive)
  set_target_properties(tests-freestanding PROPERTIES OUTPUT_NAME freestanding
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endif()

if(FREEHOLD_ENTRY_POINTS)
  file(GLOB system_sources CONFIGURE_DEPENDS tests/system/*.c tests/system/*.cc)
  foreach(source ${system_sources})
    get_filename_component(name ${source} NAME_WE)
    set(trace)
    if(name MATCHES "^trace_")
      set(trace freehold-trace)
    endif()
    freehold_program(tests ${source} ${trace})
  endforeach()
  # One program of C and C++; the calls that go wrong in it must stay calls.
  freehold_program(tests tests/guard/cases.c)
  target_sources(tests-cases PRIVATE tests/guard/cases_cxx.cc)
  target_compile_options(tests-cases PRIVATE -fno-builtin -fstack-protector-strong)
  set_target_properties(tests-cases PROPERTIES LINKER_LANGUAGE CXX)
  freehold_program(tests tests/guard/judge.c)

  file(GLOB system_scripts CONFIGURE_DEPENDS tests/system/*.sh)
  list(FILTER system_scripts EXCLUDE REGEX "/lib\\.sh$")
  foreach(script ${system_scripts})
    get_filename_component(name ${script} NAME_WE)
    freehold_test(system.${name} bash ${script})
  endforeach()

  file(GLOB bench_sources CONFIGURE_DEPENDS bench/own_*.c)
  if(TARGET freehold-static)
    foreach(source ${bench_sources})
      get_filename_component(name ${source} NAME_WE)
      set(more)
      if(name MATCHES "fragmentation")
        if(NOT PNG_FOUND)
          continue()
        endif()
        set(more freehold-heapmap)
      endif()
      freehold_program(bench ${source} ${more} freehold-static)
      target_include_directories(bench-${name} PRIVATE lib tests)
    endforeach()
  endif()

  file(GLOB example_sources CONFIGURE_DEPENDS examples/*.c examples/*.cc)
  if(TARGET freehold)
    foreach(source ${example_sources})
      freehold_program(examples ${source} freehold)
    endforeach()
  endif()
endif()

if(FREEHOLD_FUZZ AND TARGET freehold-static)
  file(GLOB fuzz_sources CONFIGURE_DEPENDS fuzz/*.c)
  foreach(source ${fuzz_sources})
    get_filename_component(name ${source} NAME_WE)
    freehold_program(fuzz ${source} freehold-static)
    target_include_directories(fuzz-${name} PRIVATE lib tests ${PROJECT_SOURCE_DIR})
    if(TARGET freehold-trace-static)
      target_link_libraries(fuzz-${name} PRIVATE freehold-trace-static)
    endif()
    target_compile_options(fuzz-${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(fuzz-${name} PRIVATE -fsanitize=fuzzer)
  endforeach()
endif()
