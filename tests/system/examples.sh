#!/bin/bash
# The examples build, without a warning, and print what they say they show.
. "$(dirname "$0")/lib.sh"

# example NAME ARG…: prints as standard input says.
example() {
    cat >"$work/expected"
    "$BUILD_DIR/examples/$1" "${@:2}" >"$work/printed" 2>&1 || echo "ended with status $?" >>"$work/printed"
    equal "examples/$1 to print what it shows" "$work/expected" "$work/printed"
}

example heaps <<'END'
once at freed is everything
5 blocks live
END
example own_memory <<'END'
in the buffer
ENOMEM after 20 or more blocks
END
example listen <<'END'
10 allocations of 5500 bytes, 10 frees
END
example advised <<'END'
6000 bytes answered
END
example sealed <<'END'
4 threads on node-7.example
a stray write traps
reopening it: refused
END
example secret <<'END'
signed: the same twice
at rest: inaccessible
END
example jit <<'END'
4 + 3 = 7, 4 + 1000 = 1004
END
example tags <<'END'
first: socket 3
first again: stale
second: socket 4
END
example faults good <<'END'
Grace
Barbara
Ada
END
finish
