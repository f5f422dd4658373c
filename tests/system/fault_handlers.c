/*
 * Programs that handle SIGSEGV and SIGBUS themselves: what they install is what they are told, and what is called, as the
 * kernel would call it. Under any malloc, Freehold's modes or not, each case ends with status 0 and says nothing.
 *
 * usage: fault_handlers NAME; fault_handlers --list
 */
#include "common.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

static char *page; /* inaccessible until a handler opens it */
static sigjmp_buf back;
static volatile sig_atomic_t calls;
static volatile uintptr_t handler_sp, faulting_sp;
static sigset_t handler_mask;
static char *own_stack;
static size_t own_stack_size;

static void close_page(void)
{
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(page != MAP_FAILED, "expected a page");
}

static void note(int number)
{
    char here;
    (void)number;
    calls++;
    handler_sp = (uintptr_t)&here;
    sigprocmask(SIG_BLOCK, NULL, &handler_mask);
}

static void open_it(int number, siginfo_t *info, void *context)
{
    (void)context;
    note(number);
    EXPECT((char *)info->si_addr - page < 4096, "expected the fault's address, not %p",
           info->si_addr);
    free(opaque(malloc(100)));
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void open_simply(int number)
{
    note(number);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void jump_back(int number)
{
    note(number);
    siglongjmp(back, 1);
}

static void skip_it(int number, siginfo_t *info, void *context)
{
    ucontext_t *at = context;
    (void)info;
    note(number);
#if defined(__x86_64__)
    at->uc_mcontext.gregs[REG_RIP] += 3; /* movb %al, (%rdi) … is made that long in touch_long */
#endif
}

static void install(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    EXPECT(sigaction(number, &action, NULL) == 0, "expected sigaction to work");
}

static void install_info(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    EXPECT(sigaction(number, &action, NULL) == 0, "expected sigaction to work");
}

static __attribute__((noinline)) void touch(double keep)
{
    volatile double kept = keep;
    volatile char here = 0;
    faulting_sp = (uintptr_t)&here;
    *(volatile char *)page = 1;
    EXPECT(kept == keep, "expected floating point to survive a handler");
}

static bool is_near(uintptr_t a, uintptr_t b)
{
    return a - b < 65536 || b - a < 65536;
}

static void use_own_stack(void)
{
    own_stack_size = (size_t)64 << 10;
    own_stack = table_map(own_stack_size);
    stack_t stack = {.ss_sp = own_stack, .ss_size = own_stack_size}, before;
    EXPECT(sigaltstack(&stack, &before) == 0, "expected sigaltstack to work");
    EXPECT((before.ss_flags & SS_DISABLE) != 0, "expected no alternate stack before mine");
}

static bool ran_on_own_stack(void)
{
    return handler_sp - (uintptr_t)own_stack < own_stack_size;
}

/* ---- Recovery ---- */

static void recovers(void)
{
    install_info(SIGSEGV, open_it, 0);
    for (int i = 1; i <= 100; i++) {
        close_page();
        touch(i * 1.5);
        EXPECT(calls == i, "expected one call a fault, there were %d", (int)calls);
        EXPECT(is_near(handler_sp, faulting_sp), "expected the handler on the faulting stack");
    }
    EXPECT(sigismember(&handler_mask, SIGSEGV) == 1, "expected SIGSEGV blocked in its handler");
    EXPECT(sigismember(&handler_mask, SIGUSR1) == 0, "expected nothing else blocked");
}

static void recovers_simply(void)
{
    signal(SIGSEGV, open_simply);
    close_page();
    touch(2.5);
    EXPECT(calls == 1, "expected one call");
}

static void jumps(void)
{
    install(SIGSEGV, jump_back, 0);
    for (int i = 1; i <= 1000; i++) {
        if (i % 100 == 1)
            close_page();
        if (sigsetjmp(back, 1) == 0) {
            touch(1);
            fail("expected a fault");
        }
        EXPECT(calls == i, "expected one call a fault");
    }
}

static void jumps_from_null(void)
{
    install(SIGSEGV, jump_back, SA_ONSTACK);
    use_own_stack();
    for (int i = 1; i <= 1000; i++) {
        if (sigsetjmp(back, 1) == 0) {
            *(volatile int *)opaque((void *)16) = 1;
            fail("expected a fault");
        }
        EXPECT(calls == i && ran_on_own_stack(), "expected a call on the alternate stack");
    }
}

static void masks(void)
{
    struct sigaction action = {.sa_handler = open_simply, .sa_flags = SA_NODEFER};
    sigaddset(&action.sa_mask, SIGUSR2);
    EXPECT(sigaction(SIGSEGV, &action, NULL) == 0, "expected sigaction to work");
    close_page();
    touch(1);
    EXPECT(calls == 1, "expected a call");
    EXPECT(sigismember(&handler_mask, SIGSEGV) == 0, "expected SA_NODEFER to be heeded");
    EXPECT(sigismember(&handler_mask, SIGUSR2) == 1, "expected sa_mask to be heeded");
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    EXPECT(sigismember(&now, SIGUSR2) == 0, "expected the mask to be put back");
}

static void nested_open(int number)
{
    calls++;
    if (calls == 1) {
        char *outer = page;
        close_page();
        touch(3.5);
        page = outer;
    }
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    note(number);
}

static void nests(void)
{
    install(SIGSEGV, nested_open, SA_NODEFER);
    close_page();
    touch(7.25);
    EXPECT(calls == 4, "expected two calls, each counted twice, there were %d", (int)calls);
}

#if defined(__x86_64__)
static void changes_registers(void)
{
    install_info(SIGSEGV, skip_it, 0);
    close_page();
    __asm__ volatile(".byte 0x88, 0x47, 0x00" : : "D"(page) : "memory"); /* movb %al, 0(%rdi) */
    EXPECT(calls == 1, "expected a call");
}
#endif

/* ---- Stacks ---- */

static void on_own_stack(void)
{
    use_own_stack();
    install_info(SIGSEGV, open_it, SA_ONSTACK);
    close_page();
    touch(1);
    EXPECT(calls == 1 && ran_on_own_stack(), "expected the handler on the alternate stack");
    install_info(SIGSEGV, open_it, 0);
    close_page();
    touch(1);
    EXPECT(calls == 2 && !ran_on_own_stack(), "expected the handler on the normal stack");
}

static void without_own_stack(void)
{
    install_info(SIGSEGV, open_it, SA_ONSTACK);
    close_page();
    touch(1);
    EXPECT(calls == 1 && is_near(handler_sp, faulting_sp), "expected the handler on the stack");
}

static __attribute__((noinline)) int recurse(int depth)
{
    volatile char frame[1024];
    frame[0] = (char)depth;
    return depth == 0 ? 0 : recurse(depth - 1) + frame[0];
}

static void survives_overflow(void)
{
    use_own_stack();
    install(SIGSEGV, jump_back, SA_ONSTACK);
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(back, 1) == 0)
            recurse(1 << 30);
        EXPECT(calls == i && ran_on_own_stack(), "expected a call on the alternate stack");
    }
}

static void *overflow_in_thread(void *arg)
{
    free(opaque(malloc(10)));
    survives_overflow();
    return arg;
}

static void survives_overflow_in_thread(void)
{
    pthread_t thread;
    EXPECT(pthread_create(&thread, NULL, overflow_in_thread, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
}

static void stack_is_hidden(void)
{
    stack_t now;
    free(opaque(malloc(10)));
    EXPECT(sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE) != 0,
           "expected no alternate stack at the start");
    use_own_stack();
    EXPECT(sigaltstack(NULL, &now) == 0 && now.ss_sp == own_stack, "expected my own stack");
    now = (stack_t){.ss_flags = SS_DISABLE};
    EXPECT(sigaltstack(&now, NULL) == 0, "expected it to be taken away");
    EXPECT(sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE) != 0, "expected none");
    now = (stack_t){.ss_sp = own_stack, .ss_size = 100};
    EXPECT(sigaltstack(&now, NULL) == -1 && errno == ENOMEM, "expected a small one to be refused");
}

/* Coroutines: small stacks that are not the thread's. */
static ucontext_t main_context, coroutine_context;

static void coroutine(void)
{
    free(opaque(malloc(100)));
    close_page();
    touch(9.5);
    EXPECT(is_near(handler_sp, faulting_sp), "expected the handler on the coroutine's stack");
    swapcontext(&coroutine_context, &main_context);
}

static void in_coroutine(void)
{
    install_info(SIGSEGV, open_it, 0);
    for (int i = 1; i <= 10; i++) {
        getcontext(&coroutine_context);
        coroutine_context.uc_stack.ss_sp = table_map((size_t)16 << 10);
        coroutine_context.uc_stack.ss_size = (size_t)16 << 10;
        coroutine_context.uc_link = &main_context;
        makecontext(&coroutine_context, coroutine, 0);
        swapcontext(&main_context, &coroutine_context);
        EXPECT(calls == i, "expected one call a coroutine");
    }
}

/* ---- What is told ---- */

static void actions(void)
{
    struct sigaction old;
    EXPECT(sigaction(SIGSEGV, NULL, &old) == 0 && old.sa_handler == SIG_DFL,
           "expected the default action at the start");
    install_info(SIGSEGV, open_it, SA_RESTART);
    EXPECT(sigaction(SIGSEGV, NULL, &old) == 0 && old.sa_sigaction == open_it &&
               (old.sa_flags & (SA_SIGINFO | SA_RESTART)) == (SA_SIGINFO | SA_RESTART),
           "expected what was installed");
    EXPECT(signal(SIGSEGV, SIG_IGN) == (sighandler_t)(void *)open_it, "expected the old handler");
    EXPECT(signal(SIGSEGV, open_simply) == SIG_IGN, "expected SIG_IGN");
    EXPECT(signal(SIGSEGV, SIG_DFL) == open_simply, "expected the old handler");
    EXPECT(signal(SIGSEGV, SIG_DFL) == SIG_DFL, "expected the default");
    EXPECT(signal(SIGBUS, open_simply) == SIG_DFL, "expected the default of SIGBUS");
    EXPECT(signal(SIGBUS, SIG_DFL) == open_simply, "expected the handler of SIGBUS");
}

static void once(void)
{
    struct sigaction old;
    install(SIGSEGV, open_simply, (int)SA_RESETHAND);
    close_page();
    touch(1);
    EXPECT(calls == 1, "expected a call");
    EXPECT(sigaction(SIGSEGV, NULL, &old) == 0 && old.sa_handler == SIG_DFL,
           "expected SA_RESETHAND to be heeded");
}

/* ---- Signals that are sent, and ends ---- */

static void sent(void)
{
    signal(SIGSEGV, SIG_IGN);
    raise(SIGSEGV);
    install(SIGSEGV, note, 0);
    raise(SIGSEGV);
    EXPECT(calls == 1, "expected a call");
    union sigval value = {.sival_int = 5};
    sigqueue(getpid(), SIGSEGV, value);
    EXPECT(calls == 2, "expected two calls");
}

static int end_of_child(void (*run)(void))
{
    int status = 0;
    pid_t child = fork();
    EXPECT(child >= 0, "expected a fork");
    if (child == 0) {
        free(opaque(malloc(10)));
        run();
        _exit(0);
    }
    waitpid(child, &status, 0);
    return status;
}

static void raise_it(void)
{
    raise(SIGSEGV);
}

static void handle_in_child(void)
{
    install_info(SIGSEGV, open_it, 0);
    close_page();
    touch(1);
    _exit(calls == 1 ? 7 : 8);
}

static void ends(void)
{
    int status = end_of_child(raise_it);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "expected death by SIGSEGV, not %x",
           status);
    status = end_of_child(handle_in_child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7, "expected a handler in a child to work");
}

/* A child of vfork has actions of its own. */
static void child_of_vfork(void)
{
    install_info(SIGSEGV, open_it, 0);
    pid_t child = vfork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    close_page();
    touch(1);
    EXPECT(calls == 1, "expected the parent's handler to be there still");
}

static void *fault_often(void *arg)
{
    char *mine = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)arg;
    for (int i = 0; i < 2000; i++) {
        free(opaque(malloc(100)));
        mprotect(mine, 4096, PROT_NONE);
        *(volatile char *)mine = (char)i;
        if (*mine != (char)i)
            fail("expected the write to be made after the handler");
    }
    return NULL;
}

static void open_theirs(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE);
}

/* Threads fault while another installs the handler again and again. */
static void threads(void)
{
    pthread_t thread[4];
    install_info(SIGSEGV, open_theirs, 0);
    for (int i = 0; i < 4; i++)
        EXPECT(pthread_create(&thread[i], NULL, fault_often, NULL) == 0, "expected a thread");
    for (int i = 0; i < 20000; i++)
        install_info(SIGSEGV, open_theirs, i % 2 == 0 ? SA_RESTART : SA_ONSTACK);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"recovers", recovers},
    {"recovers_simply", recovers_simply},
    {"jumps", jumps},
    {"jumps_from_null", jumps_from_null},
    {"masks", masks},
    {"nests", nests},
#if defined(__x86_64__)
    {"changes_registers", changes_registers},
#endif
    {"on_own_stack", on_own_stack},
    {"without_own_stack", without_own_stack},
    {"survives_overflow", survives_overflow},
    {"survives_overflow_in_thread", survives_overflow_in_thread},
    {"stack_is_hidden", stack_is_hidden},
    {"in_coroutine", in_coroutine},
    {"actions", actions},
    {"once", once},
    {"sent", sent},
    {"ends", ends},
    {"child_of_vfork", child_of_vfork},
    {"threads", threads},
};

int main(int argc, char **argv)
{
    alarm(30);
    EXPECT(argc > 1, "usage: fault_handlers --list | NAME");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(argv[1], "--list") == 0) {
            say("%s", cases[i].name);
        } else if (strcmp(argv[1], cases[i].name) == 0) {
            free(opaque(malloc(100)));
            cases[i].run();
            return 0;
        }
    }
    return strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
