#!/bin/bash
# What includes what: each room includes only the rooms below it, as the table says. A room that has no row
# yet fails: adding a room means saying what it may include.
#
# Quoted names are read against lib/, include/ and the file's own folder, as the build does; angle brackets are
# for the C library and, in the tools, theirs. The test first plants one violation of each kind in a small tree and
# expects each to be found, so that a table that has gone blind is noticed.
FREEHOLD_LIB= . "$(dirname "$0")/lib.sh"

# includes_of ROOT: one line for each #include that its room may not have.
includes_of() (
    cd "$1"
    find include lib cli tools lab check bench tests fuzz examples -type f \
        \( -name '*.[ch]' -o -name '*.cc' -o -name '*.hpp' \) 2>/dev/null | LC_ALL=C sort |
        xargs -r awk '
        BEGIN {
            # room: what of lib/ it may include beside itself; a name with a slash is that one header.
            may["lib/base"] = ""
            may["lib/os"] = "base"
            may["lib/pages"] = "base os"
            may["lib/stack"] = "base os"
            may["lib/scan"] = "base os pages"
            may["lib/heap"] = "base os/sys.h os/relay.h pages stack scan/scan.h"
            may["lib/place"] = "base os/sys.h pages"
            may["lib/collect"] = "base os pages scan"
            may["lib/paging"] = "base os pages place"
            may["lib/image"] = "base os pages"
            may["lib/share"] = "base os pages image"
            may["lib/store"] = "base os pages image"
            may["lib/watch"] = "base os pages stack scan"
            may["lib/guard"] = "base os pages stack scan heap"
            may["lib/bounds"] = "base os/sys.h guard heap stack"
            may["lib/measure"] = "base os pages"
            everything = "base os pages stack scan heap place collect paging image share store watch guard measure"
            may["lib/record"] = "base os stack"
            may["lib/preload"] = everything " record"
            may["include"] = ""
            may["tools"] = ""
            may["cli"] = "tools lab record/ring.h base/relay.h guard/fail_spec.h guard/site_table.h" # the other ends of a recording, of messages, of a sweep
            may["lab"] = "tools"
            may["check"] = ""
            may["examples"] = ""
            may["bench"] = ""
            may["bench/own"] = everything " tools tests" # measures a room from inside
            may["fuzz"] = everything " tests tools lab"
            may["tests/unit"] = everything " bounds preload record tests tools lab cli"
            may["tests/guard"] = ""
            may["tests/freestanding"] = "base"
            may["tests/aarch64"] = ""
            may["tests/system"] = ""      # plain programs, as a user writes them
        }
        function room_of(file,    part) {
            if (split(file, part, "/") == 2 && part[1] == "tests")
                return "tests/unit" # shared by unit tests and fuzzers
            if (part[1] == "lib" || part[1] == "tests")
                return part[1] "/" part[2]
            if (file ~ /^bench\/own_/)
                return "bench/own"
            return part[1]
        }
        function allows(room, name,    first, words, n, i) {
            first = name
            sub(/\/.*/, "", first)
            if (room == "lib/" first || room == first)
                return 1
            n = split(may[room], words, " ")
            for (i = 1; i <= n; i++)
                if (words[i] == first || words[i] == name)
                    return 1
            return 0
        }
        function refuse(why) {
            printf "%s:%d: %s: %s\n", FILENAME, FNR, name, why
        }
        function check_quoted() {
            if (name ~ /(^|\/)\.\.\//)
                refuse("climbs out of its folder")
            else if (name !~ /\// || name ~ /^freehold\//)
                return # its own folder; the public interface
            else if (!allows(room, name))
                refuse(room " may include: " (may[room] == "" ? "no other room" : may[room]))
            else if (room != "tests/unit" && name ~ /(^|[\/_])internal\.h$/ && room != "lib/" first_part())
                refuse("is private to its room")
            else if (name == "os/syscall.h" && room != "lib/os")
                refuse("only lib/os calls the kernel")
        }
        function first_part(    part) {
            split(name, part, "/")
            return part[1]
        }
        function check_angle() {
            if (name ~ /^freehold\//)
                return
            if (room !~ /^lib\// && room != "include")
                return
            if (name ~ /\// && name !~ /^(sys|linux|asm|arpa|net|netinet|valgrind)\//)
                refuse("the libraries depend on the C library alone")
            else if (name ~ /^(cmocka|dwarf|libelf|gelf|zstd|lz4|liburing|zlib)\.h$/)
                refuse("the libraries depend on the C library alone")
            else if (room != "lib/os" && room != "lib/preload" && name ~ /^(linux\/|sys\/(mman|syscall|prctl)\.h)/)
                refuse("only lib/os calls the kernel")
        }
        FNR == 1 {
            room = room_of(FILENAME)
            if (!(room in may)) {
                name = room
                refuse("has no row in the table of tests/system/includes.sh")
            }
        }
        /^[ \t]*#[ \t]*include[ \t]*["<]/ && room in may {
            name = $0
            sub(/^[^"<]*/, "", name)
            quote = substr(name, 1, 1)
            sub(/^["<]/, "", name)
            sub(/[">].*/, "", name)
            if (quote == "<")
                check_angle()
            else
                check_quoted()
        }'
)

# plant FILE INCLUDE [ok]: a file with one include; unless ok, it must be refused.
planted=$work/planted
plant() {
    mkdir -p "$planted/$(dirname "$1")"
    printf '/* theory */\n#include %s\n' "$2" >"$planted/$1"
    [[ ${3-} == ok ]] || echo "$1:2" >>"$work/expected"
}

plant lib/base/up.c '"os/sys.h"'
plant lib/os/up.c '"pages/pages.h"'
plant lib/pages/up.c '"heap/heap.h"'
plant lib/stack/aside.c '"pages/pages.h"'
plant lib/heap/kernel.c '"os/mem.h"'
plant lib/heap/private.c '"pages/internal.h"'
plant lib/heap/climbs.c '"../os/mem.h"'
plant lib/heap/syscall.c '<sys/mman.h>'
plant lib/preload/raw.c '"os/syscall.h"'
plant lib/watch/library.c '<elfutils/libdwfl.h>'
plant lib/watch/json.c '  <json-c/json.h>'
plant include/freehold/leaky.h '"base/core/macros.h"'
plant cli/reaches.c '"heap/heap.h"'
plant lab/reaches.c '"place/ground.h"'
plant tests/system/reaches.c '"os/sys.h"'
plant bench/reaches.c '"heap/heap.h"'
plant lib/heap/good.c '"os/sys.h"' ok
plant lib/heap/own.c '"heap/internal.h"' ok
plant lib/pages/public.c '"freehold/source.h"' ok
plant cli/good.c '"tools/json.h"' ok
plant lab/good.c '"freehold/trace.h"' ok
plant tests/unit/good.c '"os/internal.h"' ok
plant bench/own_good.c '"heap/heap.h"' ok
mkdir -p "$planted/lib/attic"
echo '/* theory */' >"$planted/lib/attic/unknown.c"
echo "lib/attic/unknown.c:1" >>"$work/expected"

sort -o "$work/expected" "$work/expected"
includes_of "$planted" | cut -d: -f1,2 | sort >"$work/found"
equal "every planted violation is found, and nothing else" "$work/expected" "$work/found"

: >"$work/nothing"
includes_of "$SOURCE_DIR" >"$work/violations"
equal "no room includes what it may not" "$work/nothing" "$work/violations"
finish
