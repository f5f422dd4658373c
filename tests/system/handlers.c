/*
 * Handlers that interrupt malloc and free and do not just return, and what sigaction tells of them.
 *
 *   jump     the handler leaves by siglongjmp, from wherever it came; then the thread goes on
 * allocating nest     two signals that interrupt each other's handlers, on an alternate stack and
 * off it fork     the handler forks; the child allocates actions  what was installed is what is
 * reported, by each of the ways to install raw      the handler is installed past libc: nobody
 * protects it, and the test must notice. Ends with 0 when blocks had two owners or the heap ended
 * the program (the planted fault was found), 1 when all went well
 *
 * usage: handlers jump|nest|fork|actions|raw [MILLISECONDS]
 */
#include "common.h"

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#define SLOTS 256

struct block {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
};

static struct block main_slots[SLOTS], handler_slots[2][SLOTS];
static sigjmp_buf back;
static volatile sig_atomic_t jumps, handled, children;
static bool is_planted;

static void bad(const char *what)
{
    if (is_planted)
        _exit(0);
    fail("%s", what);
}

/* Puts a block into a slot, taking out and checking what was there. A jump between the two leaks,
 * no more. */
static void step(struct block *slots, uint64_t *random)
{
    struct block *slot = &slots[random_below(random, SLOTS)];
    struct block old = *slot;
    *slot = (struct block){0};
    for (size_t i = 0; old.ptr != NULL && i < old.size; i++)
        if (old.ptr[i] != old.fill)
            bad("expected a block to have one owner");
    free(old.ptr);
    struct block fresh = {.size =
                              random_size(random, random_below(random, 200) == 0 ? 200000 : 500),
                          .fill = (unsigned char)random_next(random)};
    fresh.ptr = opaque(malloc(fresh.size));
    if (fresh.ptr == NULL)
        bad("expected an allocation to succeed");
    memset(fresh.ptr, fresh.fill, fresh.size);
    *slot = fresh;
}

static void on_jump(int number)
{
    static uint64_t random = 7;
    (void)number;
    step(handler_slots[0], &random);
    jumps++;
    siglongjmp(back, 1);
}

static void on_nest(int number)
{
    static uint64_t random[2] = {8, 9};
    int which = number == SIGPROF;
    handled++;
    for (int i = 0; i < 4; i++) {
        step(handler_slots[which], &random[which]);
        if (i == 1 && number == SIGALRM)
            raise(SIGPROF);
    }
}

static void on_fork(int number)
{
    static uint64_t random = 10;
    (void)number;
    if (handled++ % 50 != 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        alarm(10);
        for (int i = 0; i < 100; i++)
            step(handler_slots[0], &random);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    EXPECT(status == 0, "expected the child of a handler to end well, its wait status is %#x",
           status);
    children++;
}

static void on_plain(int number)
{
    static uint64_t random = 11;
    (void)number;
    for (int i = 0; i < 6; i++)
        step(handler_slots[0], &random);
}

static void timer(long microseconds)
{
    struct itimerval often = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &often, NULL);
}

static bool is_time_left(unsigned long milliseconds)
{
    static struct timespec start;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (start.tv_sec == 0)
        start = now;
    return (unsigned long)((now.tv_sec - start.tv_sec) * 1000 +
                           (now.tv_nsec - start.tv_nsec) / 1000000) < milliseconds;
}

/* Most jumps interrupt a fast path, some a slow one: that heap is given up, and the thread gets
 * another. Large blocks are left out: their pool has one lock for all, and a jump out of it is
 * beyond mending. */
static void jump(unsigned long milliseconds)
{
    struct sigaction action = {.sa_handler = on_jump};
    static uint64_t random = 12;
    sigaction(SIGALRM, &action, NULL);
    sigsetjmp(back, 1);
    timer(0);
    if (!is_time_left(milliseconds))
        return;
    for (int i = 0; i < 8; i++) { /* the slot of an interrupted step is empty or whole */
        void *block = opaque(malloc(100));
        EXPECT(block != NULL, "expected 100 bytes after a jump");
        free(block);
    }
    timer(50);
    for (;;) {
        unsigned char *block = opaque(malloc(random_below(&random, 400) + 1));
        EXPECT(block != NULL, "expected a block");
        block[0] = 1;
        free(block);
    }
}

static void nest(unsigned long milliseconds)
{
    static uint64_t random = 13;
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction on = {.sa_handler = on_nest, .sa_flags = SA_RESTART | SA_ONSTACK};
    struct sigaction off = {.sa_handler = on_nest, .sa_flags = SA_RESTART};
    sigaltstack(&alternate, NULL);
    for (int round = 0; round < 2; round++) {
        sigaction(SIGALRM, round == 0 ? &on : &off, NULL);
        sigaction(SIGPROF, round == 0 ? &off : &on, NULL);
        timer(60);
        while (is_time_left(milliseconds * (unsigned long)(round + 1) / 2))
            for (int i = 0; i < 100; i++)
                step(main_slots, &random);
    }
    timer(0);
    EXPECT(handled > 10, "expected signals");
}

static void fork_in_handler(unsigned long milliseconds)
{
    static uint64_t random = 14;
    struct sigaction action = {.sa_handler = on_fork, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    timer(100);
    while (is_time_left(milliseconds) || children == 0)
        for (int i = 0; i < 100; i++)
            step(main_slots, &random);
    timer(0);
}

static void on_info(int number, siginfo_t *info, void *context)
{
    EXPECT(info != NULL && info->si_signo == number && context != NULL,
           "expected SA_SIGINFO's arguments");
    handled++;
}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* siginterrupt is one of the ways */
static void actions(void)
{
    struct sigaction action = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND},
                     old;
    sigset_t set;
    sigaddset(&action.sa_mask, SIGHUP);
    CLAIM(sigaction(SIGUSR1, &action, &old) == 0 && old.sa_handler == SIG_DFL,
          "expected SIG_DFL before");
    CLAIM(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_sigaction == on_info &&
              (old.sa_flags & SA_SIGINFO) && (old.sa_flags & (int)SA_RESETHAND) &&
              sigismember(&old.sa_mask, SIGHUP) == 1,
          "expected the action that was installed");
    raise(SIGUSR1);
    CLAIM(handled == 1, "expected the handler to run");
    CLAIM(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_handler == SIG_DFL,
          "expected SA_RESETHAND to reset");
    CLAIM(signal(SIGUSR1, on_plain) == SIG_DFL && signal(SIGUSR1, SIG_IGN) == on_plain,
          "expected signal's old handler");
    CLAIM(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_handler == SIG_IGN, "expected SIG_IGN");
    CLAIM(signal(SIGKILL, on_plain) == SIG_ERR && errno == EINVAL,
          "expected SIGKILL to be refused");
    CLAIM(signal(0, on_plain) == SIG_ERR && errno == EINVAL, "expected signal 0 to be refused");
    CLAIM(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = on_plain}, NULL) == 0 &&
              sigaction(SIGUSR2, NULL, &old) == 0 && (old.sa_flags & SA_SIGINFO) == 0 &&
              old.sa_handler == on_plain,
          "expected no SA_SIGINFO that was not asked for");
    CLAIM(sigaction(SIGUSR2, &old, NULL) == 0 && sigaction(SIGUSR2, NULL, &old) == 0 &&
              old.sa_handler == on_plain,
          "expected an action to survive being read and put back");
    CLAIM(siginterrupt(SIGUSR2, 1) == 0 && sigaction(SIGUSR2, NULL, &old) == 0 &&
              !(old.sa_flags & SA_RESTART),
          "expected siginterrupt to clear SA_RESTART");
    CLAIM(sysv_signal(SIGUSR2, on_plain) == on_plain && sigaction(SIGUSR2, NULL, &old) == 0 &&
              (old.sa_flags & (int)(SA_RESETHAND | SA_NODEFER)) == (int)(SA_RESETHAND | SA_NODEFER),
          "expected System V's flags");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(sigaction(SIGUSR2, NULL, &old) == 0 && old.sa_handler == on_plain ? 0 : 1);
    int status;
    waitpid(child, &status, 0);
    CLAIM(status == 0, "expected a forked child to have the handlers");
}

/* The kernel's own idea of an action; the return from the handler is libc's, taken from an action
 * that it installed. */
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static void raw(unsigned long milliseconds)
{
    struct kernel_action action;
    static uint64_t random = 15;
    is_planted = true;
    signal(SIGABRT, SIG_DFL);
    signal(SIGALRM, on_plain);
    syscall(SYS_rt_sigaction, SIGALRM, NULL, &action, (size_t)8);
    action.handler = on_plain;
    syscall(SYS_rt_sigaction, SIGALRM, &action, NULL, (size_t)8);
    timer(30);
    while (is_time_left(milliseconds))
        for (int i = 0; i < 100; i++)
            step(main_slots, &random);
    timer(0);
    int (*check)(void *) = NULL;
    *(void **)&check = OPTIONAL_SYMBOL(fh_heap_check);
    if (check != NULL && check(NULL) != 0)
        bad("expected a sound heap");
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "jump";
    unsigned long milliseconds = argc > 2 ? strtoul(argv[2], NULL, 0) : 1000;
    is_time_left(milliseconds);
    if (strcmp(what, "raw") == 0) {
        pid_t child = fork(); /* it may crash or hang: both show the fault */
        if (child == 0) {
            alarm(0);
            raw(milliseconds);
            _exit(100);
        }
        struct timespec pause = {.tv_nsec = 10000000};
        int status = 0;
        for (unsigned long i = 0; waitpid(child, &status, WNOHANG) == 0; i++) {
            if (i > milliseconds)
                kill(child, SIGKILL);
            nanosleep(&pause, NULL);
        }
        bool is_noticed = !(WIFEXITED(status) && WEXITSTATUS(status) == 100);
        say("handlers raw: %s", is_noticed ? "the fault was noticed" : "nothing was noticed");
        return is_noticed ? 0 : 1;
    }
    if (strcmp(what, "actions") == 0) {
        actions();
        return claims_result();
    }
    if (strcmp(what, "jump") == 0)
        jump(milliseconds);
    else if (strcmp(what, "nest") == 0)
        nest(milliseconds);
    else
        fork_in_handler(milliseconds);
    timer(0);
    heap_check("after the handlers");
    say("handlers %s: %d jumps, %d handled, %d children, all well", what, (int)jumps, (int)handled,
        (int)children);
    return 0;
}
