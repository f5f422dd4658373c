# The front door. Everything else is CMake; see CMakePresets.json for the kinds of build.
#
#   make run      set up, build, and run a real program on Freehold's heap, with a summary at the end
#   make test     set up, build, run the quick tests; TIER=all adds the slow ones, sanitizers, a short fuzzing
#   make bench    measure against the allocators that are installed
#   make fuzz     fuzz for FUZZ_SECONDS a target (300)
#   make coverage lines and branches that the unit tests reach, by file
#   make install  to PREFIX (/usr/local); DESTDIR is honoured
#   make setup    install the packages of all of these; make clean removes build/
TIER ?= quick
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
BUILD := build/release

.PHONY: all build run test bench fuzz coverage install setup clean
all: build

build:
	@scripts/setup.sh run
	@scripts/build.sh release

run: build
	@scripts/demo.sh $(BUILD)

test:
	@scripts/setup.sh test
	@JOBS=$(JOBS) scripts/test.sh $(TIER)

bench:
	@scripts/setup.sh bench
	@scripts/build.sh release
	@bench/run --library $(BUILD)/libfreehold-malloc.so $(BENCH_ARGS)

fuzz:
	@scripts/setup.sh test
	@scripts/build.sh fuzz
	@scripts/fuzz.sh build/fuzz $(or $(FUZZ_SECONDS),300)

coverage:
	@scripts/setup.sh test
	@scripts/coverage.sh

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

setup:
	@scripts/setup.sh run test bench

clean:
	@rm -rf build
