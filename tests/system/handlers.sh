#!/bin/bash
# Signal handlers that interrupt malloc and free and jump out, nest or fork; and what sigaction tells.
. "$(dirname "$0")/lib.sh"

handlers=$(program handlers)
passes "what was installed is what is reported" "${under[@]}" "$handlers" actions
if is_freehold; then
    LIMIT=30 passes "handlers may leave by siglongjmp" "${under[@]}" "$handlers" jump 1500
    LIMIT=30 passes "handlers may nest, on an alternate stack and off it" "${under[@]}" "$handlers" nest 1500
    LIMIT=60 passes "handlers may fork" "${under[@]}" "$handlers" fork 1000
    LIMIT=60 passes "handlers installed past libc go wrong, and the test sees it" "${under[@]}" "$handlers" raw 1000
    "${under[@]}" "$handlers" nest 300 >/dev/null 2>"$work/warning" || true
    holds "at most one line says that a handler was served from the reserve" \
        test "$(grep -c '^freehold: WARNING' "$work/warning")" -le 1
fi
finish
