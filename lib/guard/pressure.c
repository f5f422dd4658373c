/*
 * Allocations that fail on purpose.
 *
 * Each allocation of the process gets a number (one atomic counter over all threads) and is judged by the rules of the setting fail
 * (fail_spec.c). A rule about call stacks makes the stack be walked; what a frame means to the rules is remembered for each
 * return address, because a name is found in microseconds to milliseconds and asked for again at once:
 *
 *   frames  which of the function rules its name matches
 *   begins  the low 16 bits of a stack's name as they follow from its innermost frame; only where they are those of a
 *           rule is the stack walked at all
 *
 * Both are direct-mapped tables of words that hold the address and the answer: a reader sees a whole entry or another one, never
 * half of one, and may be a signal handler. An address is taken for the same function as long as the process lives;
 * a library that is loaded in place of one that was closed may be misjudged.
 *
 * A fork's child counts on from its parent; a new program begins at 1.
 *
 * What a sweep needs to hear goes into its table (site_table.c): in the first run each allocation's site, in the others that a
 * failure was made, and where a signal ended the process. For that, handlers of the deadly signals are put in front of those
 * that are there when the first failure is made; they note the stack and hand the signal on. A program that installs its own
 * after that is not noted.
 */
#include "guard/pressure.h"

#include "base/message.h"
#include "guard/fail_spec.h"
#include "guard/site_table.h"
#include "heap/heap.h"
#include "os/sys.h"
#include "stack/stack.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

enum {
    REMEMBERED = 4096, /* return addresses above allocations in a large program; 32 KiB */
    VALUE_BYTES = 512,
    TOLD_FRAMES = 12, /* of a failure, in one line */
    DEADLY = 6,
};

static const int deadly[DEADLY] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP};

static struct {
    struct fh_fail_spec spec;
    bool is_telling; /* setting fail_log */
    struct fh_site_table *table;
    char value[VALUE_BYTES]; /* of setting fail */
    _Atomic uint64_t number, allocated, made;
    /* Of the last failure. The number is written last and read first (release, acquire). */
    _Atomic uint64_t last_number;
    _Atomic size_t last_size;
    _Atomic uint32_t last_stack;
    _Atomic(const char *) last_function;
    _Atomic bool is_watching; /* the handlers are in place */
    struct sigaction before[DEADLY];
} pressure;

static _Atomic uint64_t frames_seen[REMEMBERED]; /* address << 8 | a bit for each rule */
static _Atomic uint64_t begins_seen[REMEMBERED]; /* address << 16 | begin of a name */

static _Atomic uint64_t *remembered(_Atomic uint64_t *seen, uintptr_t frame)
{
    return &seen[frame * 0x9e3779b97f4a7c15u >> 52 & (REMEMBERED - 1)];
}

/* ---- Stacks ------------------------------------------------------------------------------------------ */

struct walked {
    uintptr_t frames[FH_TABLE_FRAMES];
    size_t len; /* 0: not yet */
};

/* Whether a frame belongs to the heap itself. In a static program, all of which is one module, none can be told. */
static bool is_own(uintptr_t frame)
{
    const void *entry = fh_root.entry.code;
    const void *here = (const void *)(uintptr_t)fh_pressure_refuses;
    if (fh_stack_in_module(fh_os_program_entry() + 1, here))
        return false;
    return fh_stack_in_module(frame, here) || (entry != NULL && fh_stack_in_module(frame, entry));
}

/* The stack of a call, from the first frame that is the program's. */
static void walk(struct walked *stack, const struct fh_call *call)
{
    if (stack->len != 0)
        return;
    size_t own = 0, n = fh_stack_capture_at(NULL, call->pc, call->sp, call->fp, stack->frames,
                                            FH_ARRAY_LEN(stack->frames));
    while (own < n && is_own(stack->frames[own]))
        own++;
    stack->len = n - own;
    memmove(stack->frames, stack->frames + own, stack->len * sizeof stack->frames[0]);
}

/* ---- What the rules ask for ---------------------------------------------------------------------------- */

static unsigned functions_of_frame(uintptr_t frame)
{
    _Atomic uint64_t *seen = remembered(frames_seen, frame);
    uint64_t entry = atomic_load_explicit(seen, memory_order_relaxed);
    if (entry >> 8 == frame)
        return entry & 0xff;
    char name[256];
    unsigned functions = 0;
    if (fh_stack_function(name, sizeof name, frame))
        for (size_t i = 0; i < pressure.spec.count; i++)
            if (pressure.spec.rules[i].kind == FH_FAIL_FUNCTION &&
                fh_glob_matches(pressure.spec.rules[i].function, name))
                functions |= 1u << i;
    /* relaxed: one word that says all */
    atomic_store_explicit(seen, (uint64_t)frame << 8 | functions, memory_order_relaxed);
    return functions;
}

static unsigned functions_of(const struct walked *stack)
{
    unsigned functions = 0;
    for (size_t i = 0; i < stack->len; i++)
        functions |= functions_of_frame(stack->frames[i]);
    return functions;
}

static uint16_t begin_of(uintptr_t frame)
{
    _Atomic uint64_t *seen = remembered(begins_seen, frame);
    uint64_t entry = atomic_load_explicit(seen, memory_order_relaxed);
    if (entry >> 16 == frame)
        return (uint16_t)entry;
    uint16_t begin = fh_site_name_begin(frame);
    /* relaxed: one word that says all */
    atomic_store_explicit(seen, (uint64_t)frame << 16 | begin, memory_order_relaxed);
    return begin;
}

/* Whether the stack above may be one of the rules'. A frame of our own tells nothing about the program's. */
static bool may_be_site(uintptr_t frame)
{
    uint16_t begin = begin_of(frame);
    for (size_t i = 0; i < pressure.spec.count; i++)
        if (pressure.spec.rules[i].kind == FH_FAIL_SITE &&
            (uint16_t)pressure.spec.rules[i].site == begin)
            return true;
    return is_own(frame);
}

/* ---- Deadly signals --------------------------------------------------------------------------------------- */

/* The C library's, under the name that the entry points do not take: handlers here are nobody's but ours. */
extern int __sigaction(int number, const struct sigaction *action, struct sigaction *old)
    __attribute__((weak));

static void crashed(int signal, uintptr_t address, bool is_handled, const void *ucontext)
{
    uintptr_t frames[FH_TABLE_FRAMES];
    if (pressure.table == NULL)
        return;
    size_t n = ucontext != NULL
                   ? fh_stack_capture_from(NULL, ucontext, frames, FH_ARRAY_LEN(frames), 0)
                   : fh_stack_capture(NULL, frames, FH_ARRAY_LEN(frames), 0);
    fh_site_table_crashed(pressure.table, signal, address, is_handled, frames, n);
}

void fh_pressure_crashed(int signal, uintptr_t address, const void *ucontext)
{
    crashed(signal, address, false, ucontext);
}

static size_t index_of_deadly(int number)
{
    size_t i = 0;
    while (deadly[i] != number)
        i++;
    return i;
}

/* Notes it, and lets it come again where it would have come without us. */
static void on_deadly(int number, siginfo_t *info, void *context)
{
    bool is_fault = info->si_code > 0;
    const struct sigaction *before = &pressure.before[index_of_deadly(number)];
    bool is_handled = before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN;
    crashed(number, is_fault ? (uintptr_t)info->si_addr : 0, is_handled, context);
    __sigaction(number, before, NULL);
    if (!is_fault) /* a fault repeats itself */
        fh_os_signal_self(number, info);
}

static void watch_deadly_signals(void)
{
    struct sigaction action = {.sa_sigaction = on_deadly, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (pressure.table == NULL || __sigaction == NULL ||
        atomic_exchange_explicit(&pressure.is_watching, true, memory_order_relaxed))
        return;
    for (size_t i = 0; i < DEADLY; i++)
        __sigaction(deadly[i], &action, &pressure.before[i]);
}

/* ---- A failure ----------------------------------------------------------------------------------------------- */

static const char *function_of(unsigned how)
{
    switch (how & FH_HOW_FAMILY) {
    case FH_HOW_NEW:
        return "operator new";
    case FH_HOW_ARRAY:
        return "operator new[]";
    default:
        return how & FH_HOW_RESIZE    ? "realloc"
               : how & FH_HOW_ZEROED  ? "calloc"
               : how & FH_HOW_ALIGNED ? "aligned_alloc"
                                      : "malloc";
    }
}

/* "f < g < main", as many as fit. */
static void describe_stack(char *text, size_t size, const struct walked *stack)
{
    char name[256];
    size_t len = 0;
    *text = 0;
    for (size_t i = 0; i < stack->len && i < TOLD_FRAMES; i++) {
        const char *shown = name;
        if (!fh_stack_function(name, sizeof name, stack->frames[i])) {
            fh_stack_describe(name, sizeof name, i, stack->frames[i]);
            shown = strchr(name, ' ') + 1;
        }
        if (len + strlen(shown) + sizeof " < " > size)
            return;
        len += fh_format(text + len, size - len, "%s%s", i > 0 ? " < " : "", shown);
    }
}

static void tell(const struct fh_pressure_failure *failure, const struct walked *stack)
{
    char text[800];
    describe_stack(text, sizeof text, stack);
    fh_message("failed %s of %zu bytes, allocation %llu, site=0x%016llx: %s", failure->function,
               failure->size, (unsigned long long)failure->number,
               (unsigned long long)fh_site_name(stack->frames, stack->len), text);
}

static void keep(const struct fh_pressure_failure *failure, const struct walked *stack)
{
    atomic_store_explicit(&pressure.last_size, failure->size, memory_order_relaxed);
    atomic_store_explicit(&pressure.last_function, failure->function, memory_order_relaxed);
    atomic_store_explicit(&pressure.last_stack, failure->stack, memory_order_relaxed);
    /* pairs with the acquire in fh_pressure_last */
    atomic_store_explicit(&pressure.last_number, failure->number, memory_order_release);
    if (pressure.table == NULL)
        return;
    atomic_store_explicit(&pressure.table->last_failure, fh_site_name(stack->frames, stack->len),
                          memory_order_relaxed);
    /* pairs with the command's acquire */
    atomic_fetch_add_explicit(&pressure.table->failures, 1, memory_order_release);
}

bool fh_pressure_last(struct fh_pressure_failure *last)
{
    uint64_t number = atomic_load_explicit(&pressure.last_number, memory_order_acquire);
    *last = (struct fh_pressure_failure){
        .number = number,
        .made = atomic_load_explicit(&pressure.made, memory_order_relaxed),
        .size = atomic_load_explicit(&pressure.last_size, memory_order_relaxed),
        .function = atomic_load_explicit(&pressure.last_function, memory_order_relaxed),
        .stack = atomic_load_explicit(&pressure.last_stack, memory_order_relaxed),
    };
    return number != 0;
}

static void make(uint64_t number, size_t size, const char *function, struct walked *stack,
                 const struct fh_call *call)
{
    walk(stack, call);
    const struct fh_pressure_failure failure = {
        .number = number,
        .size = size,
        .function = function,
        .stack = fh_stack_id(stack->frames, stack->len),
    };
    atomic_fetch_add_explicit(&pressure.made, 1, memory_order_relaxed);
    keep(&failure, stack);
    watch_deadly_signals();
    if (pressure.is_telling)
        tell(&failure, stack);
}

static bool fails(size_t size, const char *function, struct walked *stack,
                  const struct fh_call *call)
{
    /* Relaxed, all of them: counts, by which nothing else is published. */
    struct fh_fail_question question = {
        .number = atomic_fetch_add_explicit(&pressure.number, 1, memory_order_relaxed) + 1,
        .allocated = atomic_load_explicit(&pressure.allocated, memory_order_relaxed),
    };
    bool is_recording = pressure.table != NULL && pressure.table->is_recording;
    if (is_recording || pressure.spec.has_functions)
        walk(stack, call);
    if (is_recording)
        fh_site_table_count(pressure.table, stack->frames, stack->len, question.number, size,
                            function);
    if (pressure.spec.has_functions)
        question.functions = functions_of(stack);
    if (pressure.spec.has_sites && may_be_site(call->pc)) {
        walk(stack, call);
        question.site = fh_site_name(stack->frames, stack->len);
    }
    if (!fh_fail_decide(&pressure.spec, &question)) {
        atomic_fetch_add_explicit(&pressure.allocated, size, memory_order_relaxed);
        return false;
    }
    make(question.number, size, function, stack, call);
    return true;
}

bool fh_pressure_refuses(size_t size, size_t freed, unsigned how, const struct fh_call *call)
{
    struct walked stack;
    stack.len = 0;
    if (fh_guard_settings.is_failing && fails(size, function_of(how), &stack, call))
        return true;
    if (fh_guard_settings.limit == 0 || !fh_limit_is_passed(size, freed))
        return false;
    walk(&stack, call);
    fh_limit_tell(size, stack.frames, stack.len);
    return true;
}

bool fh_pressure_refuses_mapping(size_t size, const struct fh_call *call)
{
    struct walked stack;
    stack.len = 0;
    return fh_guard_settings.is_failing && fails(size, "mmap", &stack, call);
}

/* ---- Settings --------------------------------------------------------------------------------------------------- */

static int set_fail(const char *value)
{
    struct fh_fail_spec spec;
    size_t len = strlen(value);
    if (len >= sizeof pressure.value || fh_fail_parse(value, &spec) != 0)
        return -EINVAL;
    memcpy(pressure.value, value, len + 1);
    if (spec.has_rates && !spec.has_seed) {
        spec.seed = fh_os_random() >> 32; /* short enough to be typed */
        fh_message("fail=%s draws with seed=%llu; add +seed=%llu to repeat it", value,
                   (unsigned long long)spec.seed, (unsigned long long)spec.seed);
    }
    pressure.spec = spec;
    fh_guard_settings.is_failing = true;
    return 0;
}

static int set_table(const char *path)
{
    struct fh_site_table *table = fh_site_table_map(path);
    if (table == NULL)
        return -EINVAL;
    pressure.table = table;
    fh_guard_settings.is_failing = true;
    return 0;
}

static int set_limit(const char *value)
{
    size_t limit = 0;
    if (strcmp(value, "off") != 0 && (!fh_parse_size(value, &limit) || limit == 0))
        return -EINVAL;
    fh_guard_settings.limit = limit;
    return 0;
}

static int set_flag(const char *value, bool *flag)
{
    bool is_on = strcmp(value, "on") == 0;
    if (!is_on && strcmp(value, "off") != 0)
        return -EINVAL;
    *flag = is_on;
    return 0;
}

static int set_oom(const char *value)
{
    bool is_abort = strcmp(value, "abort") == 0;
    if (!is_abort && strcmp(value, "warn") != 0)
        return -EINVAL;
    atomic_store_explicit(&fh_pressure_oom, is_abort ? FH_OOM_ABORT : FH_OOM_WARN,
                          memory_order_relaxed);
    return 0;
}

int fh_pressure_set(const char *name, const char *value)
{
    if (strcmp(name, "limit") == 0)
        return set_limit(value);
    if (strcmp(name, "oom") == 0)
        return set_oom(value);
    if (strcmp(name, "fail") == 0)
        return set_fail(value);
    if (strcmp(name, "fail_log") == 0)
        return set_flag(value, &pressure.is_telling);
    if (strcmp(name, "fail_table") == 0)
        return set_table(value);
    return -ENOENT;
}

int fh_pressure_get(const char *name, char *value, size_t size)
{
    char text[VALUE_BYTES];
    size_t len;
    if (strcmp(name, "limit") == 0)
        len = fh_guard_settings.limit == 0
                  ? fh_format(text, sizeof text, "off")
                  : fh_format(text, sizeof text, "%zu", fh_guard_settings.limit);
    else if (strcmp(name, "oom") == 0)
        len = fh_format(text, sizeof text, "%s",
                        atomic_load_explicit(&fh_pressure_oom, memory_order_relaxed) == FH_OOM_ABORT
                            ? "abort"
                            : "warn");
    else if (strcmp(name, "fail") == 0)
        len = fh_format(text, sizeof text, "%s", pressure.value);
    else if (strcmp(name, "fail_log") == 0)
        len = fh_format(text, sizeof text, "%s", pressure.is_telling ? "on" : "off");
    else
        return -ENOENT;
    if (len >= size)
        return -ERANGE;
    memcpy(value, text, len + 1);
    return (int)len;
}
