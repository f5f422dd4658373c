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
example faults good <<'END'
Grace
Barbara
Ada
END
finish
