#!/bin/bash
# The command answers wrong input by one line on standard error that begins "freehold: ", says what to do, and by the
# exit status of its convention: 125 to 127 where a program was to start, 2 elsewhere. Nothing is left behind.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
mkdir "$work/tmp"
cd "$work"

# refuses STATUS TEXT ARG…: `freehold ARG…` ends so, with one line that holds TEXT, and prints nothing else.
refuses() {
    local expected=$1 text=$2 status=0
    shift 2
    claims=$((claims + 1))
    TMPDIR=$work/tmp timeout 20 "$freehold" "$@" >out 2>err </dev/null || status=$?
    if ((status != expected)); then
        not_so "'freehold $*' ends with $expected" "$(status_in_words $status)" err
    elif [[ $(wc -l <err) != 1 || $(head -c 10 err) != "freehold: " || -s out ]]; then
        not_so "'freehold $*' says one line" "it says:" err
    elif ! grep -qF -- "$text" err; then
        not_so "'freehold $*' says '$text'" "it says:" err
    fi
}

refuses 2 "a subcommand is missing"
refuses 2 "did you mean 'run'?" rnu -- true
refuses 2 "did you mean 'doctor'?" docter
refuses 2 "freehold run -- PROG" sqlite3
refuses 2 "did you mean '--version'?" --verson
refuses 2 "unknown option '-q'" -q

refuses 125 "no program is given" run
refuses 125 "no program is given" run --stats --
refuses 125 "did you mean '--stats'?" run --stat -- true
refuses 125 "did you mean '--on-foreign'?" run --on-foriegn=warn true
refuses 125 "freehold run --help" run --frobnicate true
refuses 125 "options are long" run -s true
refuses 125 "takes no argument" run --stats=yes true
refuses 125 "needs an argument" run --json
refuses 125 "needs an argument" run --json= true
refuses 125 "needs an argument" run --decay -- true
for value in "" x 1x -2 1.5 99999999999999999999 " 1"; do
    refuses 125 "" run --decay "$value" true
done
refuses 125 "did you mean 'always'?" run --huge alwys true
refuses 125 "abort, warn, ignore or forward" run --on-foreign no true
refuses 125 "abort, continue or exit=N" run --on-error stop true
for status in 256 -1 x "" 1x; do
    refuses 125 "0 to 255" run --on-error "exit=$status" true
done
refuses 125 "did you mean 'hardened'?" run --mode hardend true
refuses 125 "fast, hardened or debug" run --mode 3 true
refuses 125 "did you mean '--mode'?" run --mod debug true
refuses 125 "did you mean 'sweep'?" run --uaf sweeep true
for value in 0 x 8X -1 1.5M 99999999999999999999 17179869184G 8MB "8 M"; do
    refuses 125 "--guard takes" run --guard "$value" true
    refuses 125 "--limit takes a number of bytes" run --limit "$value" true
done
refuses 125 "holds a comma" run --fail nth=1,rate=2 true
refuses 125 "did you mean 'nth'" run --fail nht=1 true
refuses 125 "--fail takes" run --fail nth=0 true
refuses 125 "--fail takes" run --fail rate=7 true
refuses 125 "did you mean 'abort'" run --limit 1M --oom abrot true
refuses 125 "can't be read" run --suppress "$work/no/where" true
refuses 125 "can't be written" run --report "$work/no/where" true
refuses 125 "can't be written" run --json "$work/no/where" true
refuses 125 "can't be written" run --log "$work/no/where" true
refuses 125 "can't be written" run --json "$work" true
refuses 125 "comma" run --log a,b true
holds "a refused log file was not made" test ! -e a,b

refuses 127 "no program 'no-such-program' in PATH" run -- no-such-program
refuses 127 "no file './no-such-program'" run -- ./no-such-program
refuses 127 "in PATH" run -- ""
refuses 127 "in PATH" run --stats --json kept.json -- no-such-program
holds "a run that did not start made no --json file" test ! -e kept.json
refuses 126 "is a directory" run -- /tmp
touch plain
refuses 126 "chmod +x" run -- ./plain
PATH=$work:$PATH refuses 126 "chmod +x" run -- plain

refuses 2 "freehold symbolize FILE" symbolize
refuses 2 "freehold symbolize FILE" symbolize one two
refuses 2 "can't be read" symbolize no-such-file
refuses 2 "can't be read" symbolize /tmp
refuses 2 "did you mean '--json'?" symbolize --jason - plain
refuses 2 "can't be written" symbolize --json no/where plain
refuses 2 "one too many" doctor one two
refuses 2 "did you mean '--json'?" doctor --jsn
refuses 2 "needs an argument" doctor --json
refuses 2 "no program 'no-such-program' in PATH" doctor no-such-program

claims=$((claims + 1))
status=0
"$freehold" doctor >/dev/full 2>err || status=$?
[[ $status == 2 && $(cat err) == "freehold: standard output"* ]] ||
    not_so "a full output is told" "$(status_in_words "$status")" err

holds "nothing is left in TMPDIR" test -z "$(ls "$work/tmp")"
finish
