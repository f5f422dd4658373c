/*
 * libFuzzer target: sequences of calls of the heap, judged by the model (tests/heap_model.h). All
 * kinds of heap are reached by the first byte; heaps are made and destroyed for each input, the
 * thread's heap lives on over all of them.
 *
 *     fuzz/calls -max_len=4096 -max_total_time=60 CORPUS
 */
#include "heap_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(65536) unsigned char buffer[MODEL_BUFFER_BYTES];
    static struct heap_model model;

    model_run(&model, data, size, buffer);
    return 0;
}
