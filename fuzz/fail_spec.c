/*
 * libFuzzer target: texts of the setting fail. Whatever is written there in somebody's environment must be refused or
 * decide, and what is accepted decides the same when it is read again.
 *
 *     fuzz/fail_spec -max_len=600 -max_total_time=60
 */
#include "guard/fail_spec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool is_so)
{
    if (!is_so)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[1024];
    struct fh_fail_spec one, other;
    size_t len = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, len);
    text[len] = 0;
    int error = fh_fail_parse(text, &one);
    expect(error == fh_fail_parse(text, &other));
    if (error != 0)
        return 0;
    expect(one.count > 0 && one.count <= FH_FAIL_RULES);
    for (uint64_t i = 1; i < 64; i++) {
        const struct fh_fail_question question = {
            .number = i, .allocated = i * 1000, .site = i % 4, .functions = (unsigned)i & 0xff};
        expect(fh_fail_decide(&one, &question) == fh_fail_decide(&other, &question));
    }
    for (size_t i = 0; i < one.count; i++)
        fh_glob_matches(one.rules[i].function, text);
    return 0;
}
