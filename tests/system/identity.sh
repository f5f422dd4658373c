#!/bin/bash
# setuid, user namespaces and seccomp filters in a process whose decay helper runs.
. "$(dirname "$0")/lib.sh"

identity=$(program identity)
# claim_or_skip CLAIM MODE: exit status 77 says that this machine can't.
claim_or_skip() {
    local status=0
    "${under[@]}" "$identity" "$2" >"$work/skipped" 2>&1 || status=$?
    if ((status == 77)); then
        skip "$1: $(tail -1 "$work/skipped")"
    else
        passes "$1" "${under[@]}" "$identity" "$2"
    fi
}

claim_or_skip "after setuid every thread has the new identity" user
claim_or_skip "a user namespace is given: the process has one thread then" namespace
passes "after a filter by prctl that allows what glibc's malloc calls, allocation goes on" "${under[@]}" "$identity" filter
passes "the same by the raw system call" "${under[@]}" "$identity" raw-filter
finish
