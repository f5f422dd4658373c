#!/bin/bash
# Memory is given back while the process sleeps, and what does it is never in a program's way: seccomp filters, changes of
# identity, user namespaces.
. "$(dirname "$0")/lib.sh"

idle=$(program idle)
passes "a heap that freed much works under a seccomp filter" "${under[@]}" "$idle" confined
passes "user namespaces can be entered after much was freed" "${under[@]}" "$idle" namespace
if is_freehold; then
    passes "a change of identity reaches all tasks" "${under[@]}" "$idle" identity
    for scenario in main thread exited remote fork; do
        passes "what was freed is given back to the system (scenario: $scenario)" "${under[@]}" "$idle" $scenario
    done
    passes "what was freed is given back on an old kernel in a container" \
        "${under[@]}" FREEHOLD_FEATURES=6.1,container "$idle" main
fi
finish
