/*
 * Random sequences against the model, each in a child so that whatever happens is a result; one that fails
 * is made small (shrink.h), printed as C and as the bytes that repeat it.
 */
#ifndef FH_TESTS_PROPERTY_H
#define FH_TESTS_PROPERTY_H

#include "allocator_model.h"
#include "shrink.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROPERTY_STEPS   1200u
#define PROPERTY_BYTES   (MODEL_HEADER_BYTES + PROPERTY_STEPS * MODEL_STEP_BYTES)
#define PROPERTY_SECONDS 20u /* a run takes a hundredth of it; longer means a loop */

/* The byte strings are a linear congruence's upper bytes: the same everywhere. */
static inline size_t property_input(uint8_t *input, const struct subject_kind *kind,
                                    enum ground ground, uint64_t seed, unsigned steps)
{
    size_t size = MODEL_HEADER_BYTES + steps * MODEL_STEP_BYTES;

    seed = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < size; i++) {
        seed = seed * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
        input[i] = (uint8_t)(seed >> 56);
    }
    input[0] = (uint8_t)(kind - subject_kinds);
    input[1] = (uint8_t)ground;
    return size;
}

struct property {
    struct allocator_model *model;
    unsigned asked;
};

/* The wait status of a child that ran the input; what it says goes to standard error when `is_told`. */
static inline int property_status(struct allocator_model *model, const uint8_t *input, size_t size,
                                  bool is_told)
{
    int status;
    pid_t child = fork();

    if (child < 0)
        abort();
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        alarm(PROPERTY_SECONDS);
        if (!is_told) {
            int null = open("/dev/null", O_WRONLY);
            dup2(null, STDERR_FILENO);
        }
        model->is_told = is_told;
        model_run(model, input, size);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static inline bool property_fails(void *context, const uint8_t *input, size_t size)
{
    struct property *property = context;

    property->asked++;
    return property_status(property->model, input, size, false) != 0;
}

/* Prints what is left of a failing input: the steps as C, and the bytes for a unit test or a corpus. */
static inline void property_print(struct allocator_model *model, const uint8_t *input, size_t size)
{
    fprintf(stderr, "---- the shortest sequence found that fails:\n");
    property_status(model, input, size, true);
    fprintf(stderr, "---- repeat it with model_run() over\nstatic const uint8_t input[] = {");
    for (size_t i = 0; i < size; i++)
        fprintf(stderr, "%s%#x", i == 0 ? "" : ", ", input[i]);
    fprintf(stderr, "};\n");
}

/* True when all seeds from `first` on pass; else the failure is on standard error, made small. */
static inline bool property_holds(struct allocator_model *model, const struct subject_kind *kind,
                                  enum ground ground, uint64_t first, unsigned seeds)
{
    static uint8_t input[PROPERTY_BYTES], scratch[PROPERTY_BYTES];

    for (uint64_t seed = first; seed < first + seeds; seed++) {
        size_t size = property_input(input, kind, ground, seed, PROPERTY_STEPS);
        struct property property = {.model = model};
        if (!property_fails(&property, input, size))
            continue;
        fprintf(stderr, "%s over a %s fails with seed %llu\n", kind->name, ground_names[ground],
                (unsigned long long)seed);
        size = shrink(input, size, MODEL_HEADER_BYTES, MODEL_STEP_BYTES, scratch, property_fails,
                      &property);
        property_print(model, input, size);
        return false;
    }
    return true;
}

#endif
