/*
 * libFuzzer target: sequences of calls of every allocator, judged by the model (tests/allocator_model.h).
 * The first bytes choose the allocator and what it stands on, so one corpus serves all; an input is what
 * the property tests read too.
 *
 *     fuzz/allocators -max_len=4096 -max_total_time=60 CORPUS
 *
 * FH_FUZZ_TELL=1 in the environment prints the steps of an input as C.
 */
#include "allocator_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(65536) unsigned char arenas[2][SUBJECT_MOST_BUDGET + 2 * SUBJECT_GUARD];
    static struct allocator_model model;

    model.arena = arenas[0];
    model.other = arenas[1];
    model.is_told = getenv("FH_FUZZ_TELL") != NULL;
    model_run(&model, data, size);
    return 0;
}
