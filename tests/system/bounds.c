/*
 * What libfreehold-debug is for: calls of the C library that leave an object, one each, and the good twin,
 * which goes to its last byte.
 *
 * `bounds NAME` makes the mistake, `bounds NAME good` does not. `bounds --list` prints each NAME with the
 * kind of the error and the function that the report must name. `bounds right` does what is unusual and correct, and
 * must be left alone.
 */
#include "common.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <wchar.h>

enum { SIZE = 40 };

#define FRAME __attribute__((noinline))

static size_t more; /* 1; 0 in the good twin */

/* The compiler must make the calls, and know no sizes. */
#define CALL(name) ((__typeof__(&name))opaque((void *)(uintptr_t)name))

static char *block_of(size_t size)
{
    char *block = opaque(malloc(size));
    EXPECT(block != NULL, "expected %zu bytes", size);
    return block;
}

static char *text_of(size_t len)
{
    char *text = block_of(len + 1);
    for (size_t i = 0; i < len; i++)
        text[i] = 'x';
    text[len] = 0;
    return text;
}

/* ---- the heap --------------------------------------------------------------------------------- */

static void memcpy_to_block(void)
{
    CALL(memcpy)(block_of(SIZE), block_of(SIZE + 1), SIZE + more);
}

static void memcpy_from_block(void)
{
    CALL(memcpy)(block_of(SIZE + 1), block_of(SIZE), SIZE + more);
}

static void memset_below_block(void)
{
    CALL(memset)(block_of(SIZE) - more, 0, SIZE);
}

static void strcpy_to_block(void)
{
    CALL(strcpy)(block_of(SIZE), text_of(SIZE - 1 + more));
}

static void strlen_of_block(void)
{
    char *block = block_of(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        block[i] = 'x';
    if (!more)
        block[SIZE - 1] = 0;
    CALL(strlen)(block);
}

static void strlen_of_freed(void)
{
    char *text = text_of(SIZE);
    if (more)
        free(text);
    CALL(strlen)(text);
}

static void sprintf_to_block(void)
{
    CALL(sprintf)(block_of(SIZE), "%s", text_of(SIZE - 1 + more));
}

static void printf_of_freed(void)
{
    char *text = text_of(SIZE), out[2 * SIZE];
    if (more)
        free(text);
    CALL(snprintf)(out, sizeof out, "%d %s", 1, text);
}

static void wcscpy_to_block(void)
{
    wchar_t text[] = L"abcdefghi";
    text[8 + more] = 0;
    CALL(wcscpy)((wchar_t *)(void *)block_of(9 * sizeof(wchar_t)), text);
}

static void read_to_block(void)
{
    int file = open("/dev/zero", O_RDONLY);
    CALL(read)(file, block_of(SIZE), SIZE + more);
    close(file);
}

static void recv_to_freed(void)
{
    int pair[2];
    char *block = block_of(SIZE);
    EXPECT(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "expected a pair of sockets");
    if (more)
        free(block);
    CALL(recv)(pair[0], block, SIZE, MSG_DONTWAIT);
}

static void fread_to_block(void)
{
    FILE *file = fopen("/dev/zero", "r");
    CALL(fread)(block_of(SIZE), 1, SIZE + more, file);
    fclose(file);
}

static int compare(const void *a, const void *b)
{
    return *(const char *)a - *(const char *)b;
}

static void qsort_of_block(void)
{
    CALL(qsort)(text_of(SIZE - 1), SIZE + more, 1, compare);
}

/* ---- stacks and static objects ---------------------------------------------------------------- */

FRAME static void memset_on_stack(void)
{
    char variable[SIZE];
    CALL(memset)(variable, 0, more ? SIZE + 64 : SIZE);
    opaque(variable);
}

FRAME static void fill(char *to, const char *text)
{
    CALL(strcpy)(to, text);
    __asm__ volatile("" : : : "memory");
}

FRAME static void strcpy_to_caller(void)
{
    char variable[SIZE];
    fill(opaque(variable), text_of(more ? SIZE + 64 : SIZE - 1));
    opaque(variable);
}

static void *fill_in_thread(void *unused)
{
    memset_on_stack();
    return unused;
}

static void memset_on_threads_stack(void)
{
    pthread_t thread;
    EXPECT(pthread_create(&thread, NULL, fill_in_thread, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
}

static char table[SIZE], behind[SIZE];

static void strcpy_to_table(void)
{
    opaque(behind);
    CALL(strcpy)(opaque(table), text_of(SIZE - 1 + more));
}

static const char names[4][10] = {"one", "two", "three", "four"};

static void memcpy_from_table(void)
{
    CALL(memcpy)(block_of(SIZE + 1), opaque((void *)(uintptr_t)names), sizeof names + more);
}

static void strlen_of_null(void)
{
    CALL(strlen)(opaque(more ? NULL : table));
}

/* ---- what is right ---------------------------------------------------------------------------- */

/* Elements of an array that the linker makes. */
struct item {
    char text[16];
};
#define ITEM(name) static const struct item name __attribute__((section("items"), used)) = {#name}
ITEM(first_item);
ITEM(second_item);
ITEM(third_item);
extern const struct item __start_items[], __stop_items[];

static void copies_an_array_of_the_linker(void)
{
    struct item copy[3];
    EXPECT(__stop_items - __start_items == 3, "expected three items");
    CALL(memcpy)(copy, __start_items, sizeof copy);
}

static ucontext_t outside, inside;
static char *coroutine_text;

static void coroutine(void)
{
    char variable[256];
    CALL(memset)(variable, 'x', sizeof variable - 1);
    variable[255] = 0;
    EXPECT(CALL(strlen)(variable) == 255, "expected its own variable");
    CALL(strcpy)(coroutine_text, variable); /* the first stack's */
}

static void runs_on_another_stack(void)
{
    char text[256];
    coroutine_text = opaque(text);
    getcontext(&inside);
    inside.uc_stack.ss_size = 65536;
    inside.uc_stack.ss_sp = malloc(inside.uc_stack.ss_size);
    inside.uc_link = &outside;
    makecontext(&inside, coroutine, 0);
    swapcontext(&outside, &inside);
    free(inside.uc_stack.ss_sp);
    EXPECT(CALL(strlen)(text) == 255, "expected what the coroutine wrote");
}

static volatile sig_atomic_t handled;

static void handle(int number, siginfo_t *info, void *context)
{
    siginfo_t copy;
    ucontext_t where;
    CALL(memcpy)(&copy, info, sizeof copy);
    CALL(memcpy)(&where, context, sizeof where);
    handled = copy.si_signo == number;
}

static void copies_what_the_kernel_put_on_the_stack(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    EXPECT(handled, "expected the handler to run");
    char *stack = malloc(65536);
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = 65536}, NULL);
    action.sa_flags |= SA_ONSTACK;
    sigaction(SIGUSR1, &action, NULL);
    handled = 0;
    raise(SIGUSR1);
    EXPECT(handled, "expected the handler to run on its stack");
    sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    free(stack);
}

struct flexible {
    size_t len;
    char text[];
};

static struct flexible made_by_the_compiler = {5, {"hello"}};

static void uses_flexible_arrays(void)
{
    struct flexible *it = malloc(sizeof *it + 6);
    CALL(memcpy)(it, &made_by_the_compiler, sizeof *it + 6);
    EXPECT(CALL(strcmp)(it->text, "hello") == 0, "expected the text");
    free(it);
}

static jmp_buf back;

FRAME static int compare_and_leave(const void *a, const void *b)
{
    (void)a;
    (void)b;
    longjmp(back, 1);
}

static void leaves_a_wrapper_by_longjmp(void)
{
    char letters[] = "cba";
    if (setjmp(back) == 0)
        CALL(qsort)(letters, 3, 1, compare_and_leave);
    CALL(memset)(letters, 'x', 3);
    EXPECT(CALL(strlen)(letters) == 3, "expected the letters");
}

static void asks_the_kernel_about_addresses(void)
{
    int pipe_ends[2];
    EXPECT(pipe(pipe_ends) == 0, "expected a pipe");
    errno = 0;
    EXPECT(CALL(write)(pipe_ends[1], opaque(NULL), 1) == -1 && errno == EFAULT, "expected EFAULT");
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void formats_with_more_than_there_is(void)
{
    char *text = block_of(6);
    EXPECT(CALL(snprintf)(text, 1000, "%s", "hello") == 5, "expected five characters");
    EXPECT(CALL(snprintf)(text, 6, "%s", "hello world") == 11, "expected to be told the length");
    EXPECT(CALL(strcmp)(text, "hello") == 0, "expected what fits");
    EXPECT(CALL(memchr)(text, 'l', 1000) == text + 2, "expected the first l");
    EXPECT(CALL(strncmp)(text, "help", 1000) < 0, "expected a difference");
    free(text);
}

static void forks(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        formats_with_more_than_there_is();
        _exit(0);
    }
    EXPECT(waitpid(child, &status, 0) == child && status == 0, "expected the child to end well");
}

static void *small_thread(void *unused)
{
    formats_with_more_than_there_is();
    uses_flexible_arrays();
    CALL(memcpy)(block_of(SIZE), table, SIZE);
    return unused;
}

static void works_on_a_stack_of_16_KiB(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    EXPECT(pthread_attr_setstacksize(&attributes, 16384) == 0, "expected 16 KiB to be enough");
    EXPECT(pthread_create(&thread, &attributes, small_thread, NULL) == 0, "expected a thread");
    pthread_join(thread, NULL);
}

static void everything_right(void)
{
    copies_an_array_of_the_linker();
    runs_on_another_stack();
    copies_what_the_kernel_put_on_the_stack();
    uses_flexible_arrays();
    leaves_a_wrapper_by_longjmp();
    asks_the_kernel_about_addresses();
    formats_with_more_than_there_is();
    forks();
    works_on_a_stack_of_16_KiB();
}

/* ---- all of them ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*run)(void);
    const char *kind, *function;
} cases[] = {
    {"memcpy_to_block", memcpy_to_block, "heap-buffer-overflow", "memcpy"},
    {"memcpy_from_block", memcpy_from_block, "heap-buffer-overflow", "memcpy"},
    {"memset_below_block", memset_below_block, "heap-buffer-underflow", "memset"},
    {"strcpy_to_block", strcpy_to_block, "heap-buffer-overflow", "strcpy"},
    {"strlen_of_block", strlen_of_block, "heap-buffer-overflow", "strlen"},
    {"strlen_of_freed", strlen_of_freed, "heap-use-after-free", "strlen"},
    {"sprintf_to_block", sprintf_to_block, "heap-buffer-overflow", "sprintf"},
    {"printf_of_freed", printf_of_freed, "heap-use-after-free", "snprintf"},
    {"wcscpy_to_block", wcscpy_to_block, "heap-buffer-overflow", "wcscpy"},
    {"read_to_block", read_to_block, "heap-buffer-overflow", "read"},
    {"recv_to_freed", recv_to_freed, "heap-use-after-free", "recv"},
    {"fread_to_block", fread_to_block, "heap-buffer-overflow", "fread"},
    {"qsort_of_block", qsort_of_block, "heap-buffer-overflow", "qsort"},
    {"memset_on_stack", memset_on_stack, "stack-buffer-overflow", "memset"},
    {"strcpy_to_caller", strcpy_to_caller, "stack-buffer-overflow", "strcpy"},
    {"memset_on_threads_stack", memset_on_threads_stack, "stack-buffer-overflow", "memset"},
    {"strcpy_to_table", strcpy_to_table, "global-buffer-overflow", "strcpy"},
    {"memcpy_from_table", memcpy_from_table, "global-buffer-overflow", "memcpy"},
    {"strlen_of_null", strlen_of_null, "null-dereference", "strlen"},
};

int main(int argc, char **argv)
{
    EXPECT(argc > 1, "expected a name, --list or right");
    more = argc < 3;
    if (strcmp(argv[1], "right") == 0) {
        everything_right();
        return 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(argv[1], "--list") == 0) {
            printf("%s %s %s\n", cases[i].name, cases[i].kind, cases[i].function);
        } else if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    }
    return strcmp(argv[1], "--list") != 0;
}
