/*
 * Makes a failing sequence of steps small: delta debugging (Zeller, Hildebrandt 2002, "ddmin") over whole
 * steps, then each byte of what is left is tried as 0 and as its half. The predicate says whether a
 * candidate still fails; it is asked a few hundred times for a sequence of a thousand steps.
 */
#ifndef FH_TESTS_SHRINK_H
#define FH_TESTS_SHRINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef bool (*shrink_fails)(void *context, const uint8_t *input, size_t size);

/* input without the bytes [from, to), if that still fails. */
static inline bool shrink_cut(uint8_t *input, size_t *size, size_t from, size_t to,
                              uint8_t *candidate, shrink_fails fails, void *context)
{
    size_t left = *size - (to - from);

    memcpy(candidate, input, from);
    memcpy(candidate + from, input + to, *size - to);
    if (!fails(context, candidate, left))
        return false;
    memcpy(input, candidate, left);
    *size = left;
    return true;
}

/* `input` is `header` bytes and then steps of `step` bytes, and fails; returns its new size. `candidate` is
 * scratch memory of the same size. */
static inline size_t shrink(uint8_t *input, size_t size, size_t header, size_t step,
                            uint8_t *candidate, shrink_fails fails, void *context)
{
    size = header + (size - header) / step * step;
    for (size_t chunk = (size - header) / step / 2; chunk > 0;) {
        bool is_smaller = false;
        for (size_t at = header; at < size;) {
            size_t to = at + chunk * step < size ? at + chunk * step : size;
            if (shrink_cut(input, &size, at, to, candidate, fails, context))
                is_smaller = true;
            else
                at = to;
        }
        /* Single steps are tried again until none can go: one may have needed another. */
        if (chunk > 1 || !is_smaller)
            chunk /= 2;
    }
    for (size_t i = 0; i < size; i++) {
        uint8_t tries[] = {0, input[i] / 2};
        for (size_t t = 0; t < sizeof tries && input[i] != 0; t++) {
            memcpy(candidate, input, size);
            candidate[i] = tries[t];
            if (fails(context, candidate, size)) {
                input[i] = tries[t];
                break;
            }
        }
    }
    return size;
}

#endif
