# bash completion for freehold: subcommands, their options and the options' values, then the program to run
# and, from there on, whatever that program's own completion offers.

_freehold() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "run record replay advise symbolize doctor --help --version" -- "$word")
        return
    fi
    # The first word after the subcommand that is neither an option nor an option's value is the program.
    local i
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -o | --output | --json | --log | --on-error | --on-foreign | --decay | --huge) ((i++)) ;;
        --mode | --guard | --uaf | --quarantine | --limit | --fail | --suppress | --report) ((i++)) ;;
        --top | --malloc | --allocators | --rounds | --process | --html | --map) ((i++)) ;;
        --)
            ((i++))
            break
            ;;
        -*) ;;
        *) break ;;
        esac
    done
    if ((i < COMP_CWORD)) && [[ ${COMP_WORDS[1]} != replay && ${COMP_WORDS[1]} != symbolize ]]; then
        if declare -F _command_offset >/dev/null; then
            _command_offset "$i"
        else
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
        return
    fi
    case $previous in
    -o | --output | --json | --log | --html | --map | --suppress | --report)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    --allocators)
        # The last name of a list that is separated by commas.
        local before=
        [[ $word == *,* ]] && before=${word%,*},
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "$(freehold replay --list 2>/dev/null |
            sed -nE 's/^  ([a-z][a-z-]*) .*/\1/p')" -- "${word##*,}")
        return
        ;;
    --malloc)
        mapfile -t COMPREPLY < <(compgen -W "libc freehold" -- "$word")
        return
        ;;
    --rounds | --process | --top)
        return
        ;;
    --on-error)
        mapfile -t COMPREPLY < <(compgen -W "abort continue exit=" -- "$word")
        return
        ;;
    --on-foreign)
        mapfile -t COMPREPLY < <(compgen -W "abort warn ignore forward" -- "$word")
        return
        ;;
    --decay)
        mapfile -t COMPREPLY < <(compgen -W "0 100 500 1000 -1" -- "$word")
        return
        ;;
    --mode)
        mapfile -t COMPREPLY < <(compgen -W "fast hardened debug" -- "$word")
        return
        ;;
    --guard)
        mapfile -t COMPREPLY < <(compgen -W "off 1 1M 8M 64M" -- "$word")
        return
        ;;
    --uaf)
        mapfile -t COMPREPLY < <(compgen -W "quarantine sweep" -- "$word")
        return
        ;;
    --fail)
        compopt -o nospace 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -W "nth= rate= site= after= sweep" -- "$word")
        return
        ;;
    --quarantine | --limit)
        mapfile -t COMPREPLY < <(compgen -W "1M 16M 256M 1G" -- "$word")
        return
        ;;
    --huge)
        mapfile -t COMPREPLY < <(compgen -W "auto always never" -- "$word")
        return
        ;;
    esac
    if [[ $word == -* ]]; then
        case ${COMP_WORDS[1]} in
        run)
            mapfile -t COMPREPLY < <(compgen -W "--mode --guard --stats --json --log --on-error --on-foreign --decay --huge --uaf --quarantine --limit --fail --suppress --report --help" -- "$word")
            ;;
        record)
            mapfile -t COMPREPLY < <(compgen -W "--output --help" -- "$word")
            ;;
        replay)
            mapfile -t COMPREPLY < <(compgen -W "--allocators --rounds --process --latency --minimum --json --html --map --list --help" -- "$word")
            ;;
        advise)
            mapfile -t COMPREPLY < <(compgen -W "--top --rounds --process --malloc --json --html --help" -- "$word")
            ;;
        symbolize)
            mapfile -t COMPREPLY < <(compgen -W "--json --help" -- "$word")
            ;;
        doctor)
            mapfile -t COMPREPLY < <(compgen -W "--json --help" -- "$word")
            ;;
        esac
    elif [[ ${COMP_WORDS[1]} == replay || ${COMP_WORDS[1]} == symbolize ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -c -- "$word")
    fi
}

complete -o filenames -F _freehold freehold
