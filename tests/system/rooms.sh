#!/bin/bash
# Each room has its README, and only os/ calls the kernel: the others use what os/ offers, so that failing calls can
# be injected there (preload/ stands in libc's place and may). What includes what is tests/system/includes.sh.
set -uo pipefail
cd "${SOURCE_DIR:?}" || exit 1
status=0
kernel='(mmap|munmap|mremap|madvise|mprotect|mincore|syscall|memfd_create|clone|userfaultfd)'

for folder in lib/*/; do
    room=$(basename "$folder")
    if [[ ! -s $folder/README.md ]]; then
        echo "lib/$room has no README.md"
        status=1
    fi
    [[ $room == os || $room == preload ]] && continue
    # Comments are taken out first; they may name what they like.
    while read -r file; do
        calls=$(gcc -fpreprocessed -dD -E -P -x c "$file" 2>/dev/null | grep -nwE "$kernel *\(")
        if [[ -n $calls ]]; then
            echo "$file calls the kernel itself: $calls"
            status=1
        fi
    done < <(find "$folder" -name '*.[ch]')
done
exit $status
