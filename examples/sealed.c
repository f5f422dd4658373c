/*
 * Configuration that is read once and never changes: it is written into protected memory, which is
 * sealed when start-up is over. A stray write traps where it happens, and from Linux 6.10 on
 * nobody can make the memory writable again.
 */
#include <freehold/freehold.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct config {
    int threads;
    const char *host;
};

/* As a parser would: all that it finds goes into the arena. */
static struct config *read_config(struct fh_arena *arena)
{
    struct config *config = fh_arena_new(arena, struct config);
    config->threads = 4;
    config->host = fh_arena_printf(arena, "node-%d.example", 7);
    return config;
}

static void write_by_mistake(struct config *config)
{
    *(volatile int *)&config->threads = 0;
}

int main(void)
{
    struct fh_protected memory;
    struct fh_arena arena;
    const struct fh_source *source = fh_protected_source(&memory, 0);
    struct fh_arena_options options = {.place = FH_PLACE_SOURCE(source, 1 << 20)};
    if (fh_arena_init(&arena, &options) != 0)
        return 1;
    struct config *config = read_config(&arena);
    if (fh_protect(&memory, FH_PROTECT_READ) != 0 || fh_protect_seal(&memory) < 0)
        return 1;
    printf("%d threads on %s\n", config->threads, config->host);

    fflush(stdout);
    if (fork() == 0) {
        write_by_mistake(config);
        _exit(0);
    }
    int status;
    wait(&status);
    puts(WIFSIGNALED(status) ? "a stray write traps" : "a stray write went through");
    printf("reopening it: %s\n", fh_protect_begin_write(&memory) == 0 ? "done" : "refused");
    return 0;
}
