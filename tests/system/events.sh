#!/bin/bash
# Listeners under a preloaded Freehold: an event names the program's own call.
. "$(dirname "$0")/lib.sh"

if ! is_freehold; then
    skip "the events are Freehold's own"
    exit 77
fi
passes "each entry point's event to name the function that called it" "${under[@]}" "$(program events)"
finish
