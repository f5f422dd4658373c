/*
 * Our walk against elfutils' (libdw), frame by frame, on stacks as programs really have them.
 *
 * A random plan of calls is followed down: own functions of many frame shapes, compiled without
 * frame pointers where the compiler can be told, realigned and variable-size frames, functions of
 * libc and of a library opened by hand that call back (Debian's have no frame pointers), signal
 * handlers and coroutines. At the bottom the registers are taken with getcontext, and both walkers
 * start from them. Plans run on the first stack, on threads, and on alternate signal stacks.
 *
 * Then a thread that computes is interrupted wherever it happens to be, in the first and last
 * instructions of functions too, and both walkers start from the signal's context.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2,omit-frame-pointer")
#endif
#define _GNU_SOURCE 1 /* process_vm_readv, fopencookie, dl_iterate_phdr */

#include "stack/stack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <alloca.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <search.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/core/macros.h"

/* ThreadSanitizer forbids what some plans do: allocate in a signal handler. */
#if defined(HAVE_LIBDW) && !defined(__SANITIZE_THREAD__)
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <link.h>

enum { FRAMES_MAX = 400, REGISTERS = 17, STACK_BYTES = 1 << 18, PLAN_MAX = 24 };

/* ---- What libdw says ------------------------------------------------------------------------ */

struct expected {
    const ucontext_t *from;
    uintptr_t frames[FRAMES_MAX];
    size_t n;
};

static Dwfl *dwfl;
static struct expected *current;
/* libdw is not for several threads at once. */
static pthread_mutex_t dwfl_lock = PTHREAD_MUTEX_INITIALIZER;

static pid_t next_thread(Dwfl *unused, void *arg, void **thread_arg)
{
    (void)unused;
    (void)arg;
    if (*thread_arg != NULL)
        return 0;
    *thread_arg = &current;
    return getpid();
}

static bool get_thread(Dwfl *unused, pid_t tid, void *arg, void **thread_arg)
{
    (void)unused;
    (void)tid;
    (void)arg;
    *thread_arg = &current;
    return true;
}

static bool read_memory(Dwfl *unused, Dwarf_Addr addr, Dwarf_Word *result, void *arg)
{
    (void)unused;
    (void)arg;
    struct iovec to = {result, sizeof(*result)}, from = {(void *)addr, sizeof(*result)};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)sizeof(*result);
}

static bool set_registers(Dwfl_Thread *thread, void *arg)
{
    (void)arg;
    static const int order[REGISTERS] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
                                         REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                         REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    Dwarf_Word registers[REGISTERS];
    for (int i = 0; i < REGISTERS; i++)
        registers[i] = (Dwarf_Word)current->from->uc_mcontext.gregs[order[i]];
    return dwfl_thread_state_registers(thread, 0, REGISTERS, registers);
}

static const Dwfl_Thread_Callbacks thread_callbacks = {
    .next_thread = next_thread,
    .get_thread = get_thread,
    .memory_read = read_memory,
    .set_initial_registers = set_registers,
};

static int no_debuginfo(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base,
                        const char *file, const char *link, GElf_Word crc, char **result)
{
    (void)module, (void)data, (void)name, (void)base, (void)file, (void)link, (void)crc,
        (void)result;
    return -1;
}

static int add_frame(Dwfl_Frame *frame, void *arg)
{
    struct expected *expected = arg;
    Dwarf_Addr pc;
    bool is_activation;
    if (expected->n == FRAMES_MAX || !dwfl_frame_pc(frame, &pc, &is_activation))
        return DWARF_CB_ABORT;
    if (pc == 0) /* what libdw shows above the outermost frame of some threads */
        return DWARF_CB_ABORT;
    expected->frames[expected->n++] = pc + is_activation;
    return DWARF_CB_OK;
}

static void open_dwfl(void)
{
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_linux_proc_find_elf,
        .find_debuginfo = no_debuginfo,
    };
    dwfl = dwfl_begin(&callbacks);
    assert_non_null(dwfl);
    assert_int_equal(dwfl_linux_proc_report(dwfl, getpid()), 0);
    assert_int_equal(dwfl_report_end(dwfl, NULL, NULL), 0);
    assert_true(dwfl_attach_state(dwfl, NULL, getpid(), &thread_callbacks, NULL));
}

/* ---- The comparison ------------------------------------------------------------------------- */

static _Atomic unsigned compared, disagreed;
static size_t deepest;
static __thread struct fh_stack_cache *own_cache;
/* Where the coroutines of this thread end: there libdw goes on, through whatever the stack below
 * holds. */
static __thread uintptr_t coroutine_end;

static void report(const struct expected *expected, const uintptr_t *frames, size_t n)
{
    char text[256];
    for (size_t i = 0; i < expected->n || i < n; i++) {
        fh_stack_describe(text, sizeof(text), i, i < n ? frames[i] : 0);
        print_error("  %s", text);
        fh_stack_describe(text, sizeof(text), i, i < expected->n ? expected->frames[i] : 0);
        print_error("  | libdw %s\n", text);
    }
}

/* A frame that is found by rbx only, as that of the dynamic loader's resolver. */
enum { CALL_BY_RBX_BYTES = 32 };
void call_by_rbx(void (*callee)(void));
__asm__(".text\n"
        ".type call_by_rbx, @function\n"
        "call_by_rbx:\n"
        ".cfi_startproc\n"
        "push %rbx\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbx, -16\n"
        "mov %rsp, %rbx\n"
        ".cfi_def_cfa_register %rbx\n"
        "sub $100, %rsp\n"
        "and $-64, %rsp\n"
        "call *%rdi\n"
        "mov %rbx, %rsp\n"
        ".cfi_def_cfa_register %rsp\n"
        "pop %rbx\n"
        ".cfi_restore %rbx\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size call_by_rbx, . - call_by_rbx\n");

static void ask_libdw(struct expected *expected)
{
    pthread_mutex_lock(&dwfl_lock);
    current = expected;
    dwfl_getthread_frames(dwfl, getpid(), add_frame, expected);
    pthread_mutex_unlock(&dwfl_lock);
}

/* Where the stacks of this thread end, and where libdw gives up: it loses rbx below some signal
 * frames, and with it the way out of call_by_rbx. There we must get to the end alone. */
static __thread uintptr_t thread_end;
static _Atomic unsigned alone;

static bool agree(struct expected *expected, const uintptr_t *frames, size_t n)
{
    uintptr_t last = expected->n != 0 ? expected->frames[expected->n - 1] : 0;
    if (n > expected->n && last - (uintptr_t)call_by_rbx < CALL_BY_RBX_BYTES &&
        (frames[n - 1] == thread_end || frames[n - 1] == coroutine_end)) {
        n = expected->n;
        alone++;
    }
    if (n < expected->n && n != 0 && frames[n - 1] == coroutine_end)
        expected->n = n;
    compared++;
    deepest = n > deepest ? n : deepest;
    return n == expected->n && memcmp(frames, expected->frames, n * sizeof(frames[0])) == 0;
}

/* Both walkers from here; and fh_stack_capture, which must give the same outside of this function.
 */
static __attribute__((noinline)) void compare(void)
{
    ucontext_t here;
    struct expected expected = {.from = &here};
    uintptr_t frames[FRAMES_MAX], called[FRAMES_MAX];
    getcontext(&here);
    size_t n = fh_stack_capture_from(own_cache, &here, frames, FRAMES_MAX, 0);
    size_t again = fh_stack_capture(own_cache, called, FRAMES_MAX, 0);
    ask_libdw(&expected);
    bool is_same = agree(&expected, frames, n) && again == n &&
                   memcmp(&called[1], &frames[1], (n - 1) * sizeof(frames[0])) == 0;
    if (!is_same && disagreed++ < 2) {
        print_error("libdw %zu frames, from a context %zu, by a call %zu\n", expected.n, n, again);
        report(&expected, frames, n);
    }
}

/* ---- The shapes of calls -------------------------------------------------------------------- */

struct plan {
    const uint8_t *left; /* one byte a call still to be made */
    size_t len;
};

static __thread struct plan plan;
static volatile char sink;

static void descend(void);

#define SHAPE(bytes)                                                                               \
    static __attribute__((noinline)) void shape_##bytes(void)                                      \
    {                                                                                              \
        volatile char local[bytes];                                                                \
        local[0] = 1;                                                                              \
        descend();                                                                                 \
        sink = local[(bytes) / 2];                                                                 \
    }
SHAPE(8)
SHAPE(120)
SHAPE(1000)
SHAPE(5000)

static __attribute__((noinline)) void shape_variable(void)
{
    volatile char *local = alloca(16 + plan.len * 40);
    local[0] = 1;
    descend();
    sink = local[1];
}

static __attribute__((noinline)) void shape_realigned(void)
{
    volatile char local[64] __attribute__((aligned(64)));
    local[0] = 1;
    descend();
    sink = local[1];
}

static __attribute__((noinline)) void shape_realigned_variable(void)
{
    volatile char aligned[128] __attribute__((aligned(128)));
    volatile char *local = alloca(8 + plan.len * 24);
    aligned[0] = local[0] = 1;
    descend();
    sink = aligned[1] + local[1];
}

static __attribute__((noinline)) long shape_registers(long a, long b, long c, long d, long e,
                                                      long f, long g, long h)
{
    long x = a * b + c, y = d * e + f, z = g * h + a;
    descend();
    sink = (char)(x + y);
    return x * y + z + a + b + c + d + e + f + g + h;
}

static int compare_ints(const void *a, const void *b)
{
    if (plan.len != 0) {
        descend();
        plan.len = 0;
    }
    return *(const int *)a - *(const int *)b;
}

static __attribute__((noinline)) void shape_qsort(void)
{
    int numbers[] = {5, 3, 9, 1, 4, 8, 2, 7, 6, 0};
    struct plan rest = plan;
    qsort(numbers, FH_ARRAY_LEN(numbers), sizeof(numbers[0]), compare_ints);
    plan = rest;
    plan.len = 0;
}

static __attribute__((noinline)) void shape_bsearch(void)
{
    static const int numbers[] = {1, 2, 3, 4, 5, 6};
    int wanted = 2;
    if (bsearch(&wanted, numbers, FH_ARRAY_LEN(numbers), sizeof(numbers[0]), compare_ints) == NULL)
        abort();
}

static __attribute__((noinline)) void shape_tree(void)
{
    void *root = NULL;
    int a = 1, b = 2;
    struct plan rest = plan;
    plan.len = 0;
    tsearch(&a, &root, compare_ints);
    plan = rest;
    tsearch(&b, &root, compare_ints);
    plan.len = 0;
    tdelete(&a, &root, compare_ints);
    tdelete(&b, &root, compare_ints);
}

static ssize_t write_cookie(void *cookie, const char *text, size_t size)
{
    (void)cookie;
    (void)text;
    descend();
    return (ssize_t)size;
}

static __attribute__((noinline)) void shape_stdio(void)
{
    FILE *file = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_cookie});
    setvbuf(file, NULL, _IONBF, 0);
    fprintf(file, "%d", 42);
    plan.len = 0;
    fclose(file);
}

static int visit_module(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)info;
    (void)size;
    (void)arg;
    descend();
    return 1;
}

static __attribute__((noinline)) void shape_loader(void)
{
    dl_iterate_phdr(visit_module, NULL);
}

static void on_signal(int number)
{
    (void)number;
    descend();
}

static __attribute__((noinline)) void shape_signal(void)
{
    raise(SIGUSR1);
}

static __attribute__((noinline)) void shape_alternate_stack(void)
{
    raise(SIGUSR2);
}

static __thread ucontext_t *return_to;

static void coroutine(void)
{
    ucontext_t *caller = return_to;
    coroutine_end = (uintptr_t)__builtin_return_address(0);
    descend();
    setcontext(caller);
}

static __attribute__((noinline)) void shape_coroutine(void)
{
    ucontext_t caller, *outer = return_to;
    ucontext_t other;
    void *stack = malloc(STACK_BYTES);
    getcontext(&other);
    other.uc_stack.ss_sp = stack;
    other.uc_stack.ss_size = STACK_BYTES;
    other.uc_link = NULL;
    makecontext(&other, coroutine, 0);
    return_to = &caller;
    swapcontext(&caller, &other);
    return_to = outer;
    free(stack);
}

/* libgcc's unwinder, opened by hand: a module that could be closed again. */
static int (*unwind_backtrace)(int (*visit)(void *context, void *arg), void *arg);

static int visit_frame(void *context, void *arg)
{
    (void)context;
    (void)arg;
    descend();
    return 5; /* _URC_END_OF_STACK: enough */
}

static __attribute__((noinline)) void shape_opened(void)
{
    unwind_backtrace(visit_frame, NULL);
}

static __attribute__((noinline)) void shape_by_rbx(void)
{
    call_by_rbx(descend);
    sink = 0;
}

static pthread_once_t once;

static __attribute__((noinline)) void shape_once(void)
{
    once = (pthread_once_t)PTHREAD_ONCE_INIT;
    pthread_once(&once, descend);
}

/* Takes the next call of the plan, or compares at its end. */
static void descend(void)
{
    if (plan.len == 0) {
        compare();
        return;
    }
    uint8_t next = *plan.left++;
    plan.len--;
    switch (next % 42 < 21 ? next % 42 : next % 20) {
    case 0:
        shape_8();
        break;
    case 1:
        shape_120();
        break;
    case 2:
        shape_1000();
        break;
    case 3:
        shape_5000();
        break;
    case 4:
    case 5:
        shape_variable();
        break;
    case 6:
        shape_realigned();
        break;
    case 7:
        shape_realigned_variable();
        break;
    case 8:
    case 9:
        sink = (char)shape_registers(next, 2, 3, 4, 5, 6, 7, 8);
        break;
    case 10:
    case 11:
        shape_qsort();
        break;
    case 12:
        shape_bsearch();
        break;
    case 13:
        shape_tree();
        break;
    case 14:
    case 15:
        shape_stdio();
        break;
    case 16:
        shape_loader();
        break;
    case 17:
        shape_signal();
        break;
    case 18:
        shape_coroutine();
        break;
    case 19:
        shape_opened();
        break;
    case 20:
        shape_by_rbx();
        break;
    default:
        shape_once();
    }
    sink = 0;
}

static void run_plans(unsigned count, unsigned seed)
{
    uint8_t calls[PLAN_MAX];
    for (unsigned i = 0; i < count; i++) {
        size_t len = (size_t)rand_r(&seed) % PLAN_MAX;
        for (size_t j = 0; j < len; j++)
            calls[j] = (uint8_t)(rand_r(&seed) >> 4);
        plan = (struct plan){calls, len};
        if (i % 8 == 7)
            shape_alternate_stack();
        else
            descend();
    }
}

static void *run_on_thread(void *seed)
{
    stack_t alternate = {.ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES};
    own_cache = calloc(1, sizeof(*own_cache));
    sigaltstack(&alternate, NULL);
    uintptr_t frames[FRAMES_MAX];
    thread_end = frames[fh_stack_capture(own_cache, frames, FRAMES_MAX, 0) - 1];
    run_plans(1000, *(unsigned *)seed);
    alternate.ss_flags = SS_DISABLE;
    sigaltstack(&alternate, NULL);
    free(alternate.ss_sp);
    free(own_cache);
    return NULL;
}

/* ---- Interruptions -------------------------------------------------------------------------- */

enum { INTERRUPTIONS = 1000 };

/* The computing thread gives its context away in the handler and waits there until it is compared.
 */
static ucontext_t *_Atomic interrupted;
static _Atomic bool is_computing;

static void give_context(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    interrupted = context;
    while (interrupted != NULL)
        sched_yield();
}

static int compare_numbers(const void *a, const void *b)
{
    return *(const int *)a < *(const int *)b ? -1 : 1;
}

/* Nothing here allocates: the comparing thread does, while this one stands still anywhere. */
static void *compute(void *arg)
{
    (void)arg;
    char text[64];
    int numbers[12];
    for (unsigned seed = 1; is_computing; seed++) {
        for (size_t i = 0; i < FH_ARRAY_LEN(numbers); i++)
            numbers[i] = rand_r(&seed);
        qsort(numbers, FH_ARRAY_LEN(numbers), sizeof(numbers[0]), compare_numbers);
        snprintf(text, sizeof(text), "%.6f %s %d", numbers[0] / 7.0, "text", numbers[1]);
        sink = (char)strtod(text, NULL);
        memmove(text, text + 3, strlen(text + 3));
    }
    return NULL;
}

static void compare_interruptions(void)
{
    pthread_t thread;
    struct sigaction action = {.sa_sigaction = give_context, .sa_flags = SA_SIGINFO};
    uintptr_t frames[FRAMES_MAX];
    sigaction(SIGALRM, &action, NULL);
    is_computing = true;
    assert_int_equal(pthread_create(&thread, NULL, compute, NULL), 0);
    for (int i = 0; i < INTERRUPTIONS; i++) {
        for (volatile int wait = i * 37 % 1000; wait > 0; wait--)
            continue;
        pthread_kill(thread, SIGALRM);
        while (interrupted == NULL)
            sched_yield();
        struct expected expected = {.from = interrupted};
        size_t n = fh_stack_capture_from(NULL, interrupted, frames, FRAMES_MAX, 0);
        ask_libdw(&expected);
        if (!agree(&expected, frames, n) && disagreed++ < 4) {
            print_error("interrupted: libdw %zu frames, we %zu\n", expected.n, n);
            report(&expected, frames, n);
        }
        interrupted = NULL;
    }
    is_computing = false;
    pthread_join(thread, NULL);
}

static void test_1000_stacks_agree_with_libdw(void **state)
{
    (void)state;
    void *opened = dlopen("libgcc_s.so.1", RTLD_NOW);
    assert_non_null(opened);
    void *symbol = dlsym(opened, "_Unwind_Backtrace");
    memcpy(&unwind_backtrace, &symbol, sizeof(symbol));
    open_dwfl();
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_NODEFER | SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);

    unsigned seeds[] = {1, 2, 3, 4, 5};
    run_on_thread(&seeds[0]);
    pthread_t threads[4];
    for (unsigned i = 0; i < FH_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_on_thread, &seeds[i + 1]), 0);
    for (unsigned i = 0; i < FH_ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    compare_interruptions();
    dwfl_end(dwfl);

    struct fh_stack_counts counts;
    fh_stack_counts(&counts);
    print_message(
        "%u stacks compared, %u disagree, %u followed further than by libdw; deepest %zu frames; "
        "%lu needed every register, %lu ended early, %lu frames guessed; %lu KiB of tables for "
        "%lu modules\n",
        compared, disagreed, alone, deepest, counts.exact, counts.broken, counts.guessed,
        counts.tables >> 10, counts.modules);
    assert_true(compared >= 1000);
    assert_int_equal(disagreed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_1000_stacks_agree_with_libdw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    return 77;
}
#endif
