#!/bin/bash
# Hardened mode warns once of a program, or a library that is loaded later, that makes stacks executable; not of one that
# does not, and not in fast mode.
. "$(dirname "$0")/lib.sh"
is_freehold || exit 77

cat >"$work/program.c" <<'END'
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    free(malloc(100));
    if (argc < 2)
        return 0;
    void *plugin = dlopen(argv[1], RTLD_NOW);
    void (*allocate)(void);
    *(void **)&allocate = plugin != NULL ? dlsym(plugin, "allocate") : NULL;
    if (allocate == NULL)
        return 1;
    for (int i = 0; i < 10; i++)
        allocate();
    return 0;
}
END
cat >"$work/plugin.c" <<'END'
#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) void allocate(void)
{
    char *block = malloc(50);
    memset(block, 1, 50);
    free(block);
}
END
for kind in execstack noexecstack; do
    cc -O1 -fno-builtin "$work/program.c" -o "$work/program-$kind" -z $kind -ldl
    cc -O1 -fno-builtin -shared -fPIC "$work/plugin.c" -o "$work/plugin-$kind.so" -z $kind
done
program=$work/program plugin=$work/plugin

# says CLAIM WORD COUNT MODE COMMAND…: standard error has so many lines with the word.
says() {
    local claim=$1 word=$2 count=$3 mode=$4
    shift 4
    passes "$claim: the program to end well" env FREEHOLD=mode="$mode" LD_PRELOAD="$FREEHOLD_LIB" "$@"
    grep -c "makes the stack executable" "$work/out" >"$work/lines" || true
    echo "$count" >"$work/expected"
    equal "$claim: so many warnings" "$work/expected" "$work/lines"
    [[ $count == 0 ]] || grep -q "$word makes" "$work/out" || not_so "$claim: a warning of $word" "it reads" "$work/out"
}

says "a program with an executable stack" "the program" 1 hardened "$program-execstack"
says "a program without one" - 0 hardened "$program-noexecstack"
says "a plugin that makes stacks executable" "plugin-execstack.so" 1 hardened "$program-noexecstack" "$plugin-execstack.so"
says "a plugin that does not" - 0 hardened "$program-noexecstack" "$plugin-noexecstack.so"
says "both: one warning" "the program" 1 hardened "$program-execstack" "$plugin-execstack.so"
says "fast mode" - 0 fast "$program-execstack"
finish
