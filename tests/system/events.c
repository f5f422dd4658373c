/*
 * The caller that an event names is the function of the program that called the entry point,
 * whichever entry point it is, though some of them reach the heap by further calls of ours.
 *
 * Nothing of Freehold is linked: its listener interface is looked up in what was preloaded.
 */
#include "common.h"

#include <dlfcn.h>
#include <malloc.h>

/* As include/freehold/event.h. */
struct event {
    size_t size;
    int kind;
    unsigned thread;
    uint64_t time_ns;
    void *address, *old_address;
    size_t requested, usable;
    const void *caller, *frame;
    uint32_t stack_id;
};

enum { EVERY_CALL = 7, FUNCTION_BYTES = 192 };

static struct event last;
static unsigned told;

static void listener(void *context, const struct event *event)
{
    (void)context;
    last = *event;
    told++;
}

#define CALL(name, expression)                                                                     \
    __attribute__((noinline)) static void *name(void *p)                                           \
    {                                                                                              \
        (void)p;                                                                                   \
        void *result = expression;                                                                 \
        __asm__ volatile("" : "+r"(result) : : "memory");                                          \
        return result;                                                                             \
    }

CALL(call_malloc, malloc(100))
CALL(call_malloc_medium, malloc(5000))
CALL(call_malloc_large, malloc(100000))
CALL(call_calloc, calloc(10, 10))
CALL(call_calloc_large, calloc(1000, 1000))
CALL(call_realloc_new, realloc(NULL, 100))
CALL(call_realloc, realloc(p, 7000))
CALL(call_reallocarray, reallocarray(p, 100, 200))
CALL(call_aligned_alloc, aligned_alloc(64, 640))
CALL(call_memalign_large, memalign(1 << 20, 100))
CALL(call_free, (free(p), NULL))

static void expect_caller(const char *name, void *(*call)(void *), void *argument)
{
    char on_this_stack;
    told = 0;
    void *block = call(argument);
    uintptr_t offset = (uintptr_t)last.caller - (uintptr_t)call;
    EXPECT(told == 1, "%s: expected one event, not %u", name, told);
    EXPECT(offset > 0 && offset < FUNCTION_BYTES, "%s: expected the caller to be in it, not %p",
           name, last.caller);
    EXPECT((uintptr_t)last.frame < (uintptr_t)&on_this_stack + 512 &&
               (uintptr_t)last.frame > (uintptr_t)&on_this_stack - 65536,
           "%s: expected the frame on this stack, not %p", name, last.frame);
    EXPECT(call == call_free || last.address == block, "%s: expected the block's address", name);
}

int main(void)
{
    int (*listen_to)(unsigned, void (*)(void *, const struct event *), void *);
    alarm(20);
    *(void **)&listen_to = dlsym(RTLD_DEFAULT, "fh_event_listen");
    EXPECT(listen_to != NULL, "expected fh_event_listen to be there");
    EXPECT(listen_to(EVERY_CALL, listener, NULL) > 0, "expected to be listened to");
    expect_caller("malloc", call_malloc, NULL);
    expect_caller("malloc of a medium block", call_malloc_medium, NULL);
    expect_caller("malloc of a large block", call_malloc_large, NULL);
    expect_caller("calloc", call_calloc, NULL);
    expect_caller("calloc of a large block", call_calloc_large, NULL);
    expect_caller("realloc(NULL)", call_realloc_new, NULL);
    expect_caller("realloc", call_realloc, opaque(malloc(100)));
    expect_caller("reallocarray", call_reallocarray, opaque(malloc(100)));
    expect_caller("aligned_alloc", call_aligned_alloc, NULL);
    expect_caller("memalign", call_memalign_large, NULL);
    expect_caller("free", call_free, opaque(malloc(100)));
    expect_caller("free of a large block", call_free, opaque(malloc(1000000)));
    return 0;
}
