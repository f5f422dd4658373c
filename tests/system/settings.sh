#!/bin/bash
# FREEHOLD in the environment of somebody's running program: what is right is taken in silence, what is wrong gives
# one line and the safe default, never another exit status or other output.
. "$(dirname "$0")/lib.sh"

if ! is_freehold; then
    skip "the settings are Freehold's own"
    exit 77
fi

# runs VALUE: a program's output and status under FREEHOLD=VALUE are as ever; its standard error is left in $work/errors.
runs() {
    local status=0
    claims=$((claims + 1))
    FREEHOLD=$1 timeout 20 "${under[@]}" printf '%s\n' hello >"$work/out" 2>"$work/errors" || status=$?
    if ((status != 0)) || [[ $(cat "$work/out") != hello ]]; then
        not_so "FREEHOLD='${1:0:60}' to change nothing about the program" "$(status_in_words $status)" "$work/errors"
    fi
}

silent() {
    runs "$1"
    holds "FREEHOLD='$1' to be taken in silence, not: $(head -c 200 "$work/errors")" test ! -s "$work/errors"
}

warns() {
    runs "$1"
    holds "FREEHOLD='${1:0:60}' to give one line, not: $(head -c 300 "$work/errors")" \
        test "$(wc -l <"$work/errors")" -eq 1
    holds "FREEHOLD='${1:0:60}' to give a line that begins with freehold:" grep -q '^freehold: ' "$work/errors"
    holds "the line not to be longer than a screen is wide twice" test "$(wc -c <"$work/errors")" -le 320
}

for value in "" mode=fast decay=100 decay=0 decay=-1 huge=auto huge=always huge=never on_foreign=warn on-foreign=ignore \
    on_error=abort on_error=exit=9 huge=never,decay=0,on_foreign=forward mode=fast,decay=1000; do
    silent "$value"
done

long=$(head -c 100000 /dev/zero | tr '\0' x)
for value in nonsense nonsense=1 mode= mode=quick decay= decay=soon decay=12x decay=99999999999999999999 decay=-2 \
    huge=maybe huge on_foreign=eat on_error=exit=999 on_error=exit= on_error = =1 'mode=fast;decay=1' '%s%n%x%p' \
    $'mode=fast\nevil=1' $'\x01\x02\xff\xfe' 'mode=fast,nonsense' 'decay = 5' "$long" "mode=$long" "$long=1"; do
    warns "$value"
done

# Several mistakes are still one line each at most, and the right settings among them are taken.
runs "nonsense,decay=soon,huge=never"
holds "two mistakes to give one or two lines" test "$(wc -l <"$work/errors")" -le 2
runs ",,,,"
holds "empty settings to give at most one line" test "$(wc -l <"$work/errors")" -le 1

# Children inherit the setting, and say it again each in its own process at most once.
FREEHOLD=nonsense "${under[@]}" bash -c 'echo a; (echo b); true' >"$work/out" 2>"$work/errors"
holds "a forked child not to repeat the line" test "$(wc -l <"$work/errors")" -eq 1
finish
