/*
 * What each entry point of the C family promises, one function a promise group: C17 7.22.3 and C23
 * (free_sized), POSIX (errno, posix_memalign), glibc's manual (memalign, valloc, pvalloc,
 * malloc_usable_size, mallinfo2, malloc_info, mallopt, malloc_trim, malloc_stats). Where glibc and
 * the standards leave a choice, the claim is made of Freehold alone and says what Freehold chose;
 * the rest must hold under glibc too.
 *
 * The compiler is kept from knowing sizes and results, else it would answer some of the questions
 * itself.
 */
#include "common.h"

#include <malloc.h>
#include <stdalign.h>

static bool is_ours;

/* errno as a failing call must set it: cleared before, so that a call that leaves it alone is seen.
 */
#define FAILS_WITH(error, call)                                                                    \
    do {                                                                                           \
        errno = 0;                                                                                 \
        void *result_ = opaque(call);                                                              \
        int errno_ = errno;                                                                        \
        CLAIM(result_ == NULL, "expected " #call " to fail, got %p", result_);                     \
        CLAIM(errno_ == (error), "expected " #call " to set errno " #error ", got %d", errno_);    \
    } while (0)

static bool is_aligned(const void *ptr, size_t align)
{
    return ((uintptr_t)ptr & (align - 1)) == 0;
}

static bool is_filled(const unsigned char *ptr, unsigned char value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (ptr[i] != value)
            return false;
    }
    return true;
}

/* ---- sizes ---- */

static void zero_sizes_give_distinct_blocks(void)
{
    void *first = opaque(malloc(opaque_size(0)));
    void *second = opaque(malloc(opaque_size(0)));
    void *third = opaque(calloc(opaque_size(0), 8));
    void *fourth = opaque(calloc(8, opaque_size(0)));
    void *fifth = opaque(realloc(NULL, opaque_size(0)));

    CLAIM(first != NULL && second != NULL, "expected malloc(0) to give a block");
    CLAIM(first != second, "expected two malloc(0) to give different blocks, both are %p", first);
    CLAIM(third != NULL && fourth != NULL, "expected calloc of zero bytes to give a block");
    CLAIM(third != fourth, "expected two calloc of zero bytes to give different blocks");
    CLAIM(fifth != NULL, "expected realloc(NULL, 0) to give a block as malloc(0) does");
    free(first);
    free(second);
    free(third);
    free(fourth);
    free(fifth);
}

static void impossible_sizes_fail_with_enomem(void)
{
    size_t sizes[] = {SIZE_MAX,         SIZE_MAX - 1,     SIZE_MAX - 15,  SIZE_MAX - 4095,
                      SIZE_MAX - 65535, SIZE_MAX / 2 + 1, PTRDIFF_MAX,    (size_t)PTRDIFF_MAX + 1,
                      (size_t)1 << 62,  (size_t)1 << 56,  (size_t)1 << 48};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t size = opaque_size(sizes[i]);
        void *block = opaque(malloc(100));

        memset(block, 0x5a, 100);
        FAILS_WITH(ENOMEM, malloc(size));
        FAILS_WITH(ENOMEM, calloc(1, size));
        FAILS_WITH(ENOMEM, calloc(size, 1));
        FAILS_WITH(ENOMEM, realloc(NULL, size));
        FAILS_WITH(ENOMEM, realloc(opaque(block), size));
        FAILS_WITH(ENOMEM, reallocarray(opaque(block), size, 1));
        FAILS_WITH(ENOMEM, aligned_alloc(64, size & ~(size_t)63));
        FAILS_WITH(ENOMEM, memalign(4096, size));
        FAILS_WITH(ENOMEM, valloc(size));
        FAILS_WITH(ENOMEM, pvalloc(size));
        CLAIM(is_filled(block, 0x5a, 100),
              "expected a failed realloc to leave the block unchanged");
        free(block);
    }
}

static void products_that_overflow_fail_with_enomem(void)
{
    size_t half = opaque_size((size_t)1 << 33);
    void *block = opaque(malloc(100));

    FAILS_WITH(ENOMEM, calloc(half, half));
    FAILS_WITH(ENOMEM, calloc(opaque_size(SIZE_MAX / 2), 3));
    FAILS_WITH(ENOMEM, calloc(opaque_size(SIZE_MAX / 16 + 2), 16));
    FAILS_WITH(ENOMEM, calloc(16, opaque_size(SIZE_MAX / 16 + 2)));
    FAILS_WITH(ENOMEM, calloc(opaque_size(SIZE_MAX), opaque_size(SIZE_MAX)));
    memset(block, 0x33, 100);
    FAILS_WITH(ENOMEM, reallocarray(opaque(block), half, half));
    FAILS_WITH(ENOMEM, reallocarray(NULL, opaque_size(SIZE_MAX / 16 + 2), 16));
    CLAIM(is_filled(block, 0x33, 100),
          "expected a failed reallocarray to leave the block unchanged");
    free(block);
}

static void every_small_size_is_usable(void)
{
    for (size_t size = 0; size < 5000; size++) {
        unsigned char *block = opaque(malloc(size));
        size_t align = size > 8 || is_ours ? alignof(max_align_t) : 8;

        EXPECT(block != NULL, "expected malloc(%zu) to succeed", size);
        CLAIM(is_aligned(block, align), "expected malloc(%zu) aligned to %zu, got %p", size, align,
              (void *)block);
        size_t usable = malloc_usable_size(block);
        CLAIM(usable >= size, "expected %zu usable bytes or more, got %zu", size, usable);
        memset(block, 0xa5, usable);
        CLAIM(malloc_usable_size(block) == usable,
              "expected the usable size of a full block to stay %zu", usable);
        if (is_ours && size > 112)
            CLAIM((usable - size) * 1000 <= usable * 125 || usable - size < 16,
                  "expected at most 12.5%% of the usable size wasted, malloc(%zu) has %zu", size,
                  usable);
        if (is_ours && size > 0 && size <= 112)
            CLAIM(usable - size < 16, "expected steps of 16 bytes, malloc(%zu) has %zu", size,
                  usable);
        free(block);
    }
}

static void all_usable_bytes_may_be_written(void)
{
    enum { BLOCKS = 200 };
    unsigned char *blocks[BLOCKS];
    size_t usable[BLOCKS];
    uint64_t random = 1;

    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = random_size(&random, (size_t)1 << 20);
        blocks[i] = opaque(malloc(size));
        EXPECT(blocks[i] != NULL, "expected malloc(%zu) to succeed", size);
        usable[i] = malloc_usable_size(blocks[i]);
        memset(blocks[i], (int)i, usable[i]);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        CLAIM(is_filled(blocks[i], (unsigned char)i, usable[i]),
              "expected the %zu usable bytes of block %zu to be its own, another block wrote there",
              usable[i], i);
        free(blocks[i]);
    }
    CLAIM(malloc_usable_size(NULL) == 0, "expected malloc_usable_size(NULL) == 0");
}

static void calloc_gives_zeroes_from_used_memory(void)
{
    uint64_t random = 2;

    for (size_t i = 0; i < 2000; i++) {
        size_t size = random_size(&random, i % 50 == 0 ? (size_t)4 << 20 : 8192);
        unsigned char *dirty = opaque(malloc(size));

        EXPECT(dirty != NULL, "expected malloc(%zu) to succeed", size);
        memset(dirty, 0xff, malloc_usable_size(dirty));
        free(opaque(dirty));
        unsigned char *clean = opaque(calloc(1, size));
        EXPECT(clean != NULL, "expected calloc(1, %zu) to succeed", size);
        CLAIM(is_filled(clean, 0, size), "expected calloc(1, %zu) to give zeroes", size);
        memset(clean, 0xff, malloc_usable_size(clean));
        free(clean);
    }
}

/* ---- free ---- */

static void free_takes_null_and_keeps_errno(void)
{
    size_t sizes[] = {1, 100, 5000, 70000, (size_t)1 << 20, (size_t)64 << 20};

    errno = 77;
    free(opaque(NULL));
    CLAIM(errno == 77, "expected free(NULL) to keep errno, it is %d", errno);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *block = opaque(malloc(sizes[i]));
        EXPECT(block != NULL, "expected malloc(%zu) to succeed", sizes[i]);
        memset(block, 1, sizes[i]);
        errno = 77;
        free(block);
        CLAIM(errno == 77, "expected free of %zu bytes to keep errno, it is %d", sizes[i], errno);
    }
}

static void success_keeps_errno(void)
{
    uint64_t random = 3;

    for (size_t i = 0; i < 500; i++) {
        size_t size = random_size(&random, (size_t)1 << 20);
        errno = 78;
        void *block = opaque(malloc(size));
        if (is_ours)
            CLAIM(errno == 78, "expected a successful malloc(%zu) to keep errno, it is %d", size,
                  errno);
        free(block);
    }
}

/* ---- realloc ---- */

static void realloc_keeps_what_fits(void)
{
    size_t sizes[] = {
        1, 16, 17, 100, 1000, 4096, 16384, 65536, 65537, 300000, (size_t)2 << 20, (size_t)9 << 20};
    size_t count = sizeof(sizes) / sizeof(sizes[0]);

    for (size_t from = 0; from < count; from++) {
        for (size_t to = 0; to < count; to++) {
            unsigned char *block = opaque(malloc(sizes[from]));
            size_t kept = sizes[from] < sizes[to] ? sizes[from] : sizes[to];

            EXPECT(block != NULL, "expected malloc(%zu) to succeed", sizes[from]);
            for (size_t i = 0; i < sizes[from]; i++)
                block[i] = (unsigned char)(i * 7 + i / 251);
            block = opaque(realloc(block, sizes[to]));
            EXPECT(block != NULL, "expected realloc from %zu to %zu bytes to succeed", sizes[from],
                   sizes[to]);
            size_t wrong = 0;
            for (size_t i = 0; i < kept; i++)
                wrong += block[i] != (unsigned char)(i * 7 + i / 251);
            CLAIM(wrong == 0,
                  "expected realloc from %zu to %zu bytes to keep the contents, %zu bytes differ",
                  sizes[from], sizes[to], wrong);
            CLAIM(is_aligned(block, sizes[to] > 8 ? 16 : 8),
                  "expected realloc to align to 16, got %p", (void *)block);
            CLAIM(malloc_usable_size(block) >= sizes[to],
                  "expected %zu usable bytes or more after realloc, got %zu", sizes[to],
                  malloc_usable_size(block));
            memset(block, 3, malloc_usable_size(block));
            free(block);
        }
    }
}

static void realloc_grows_step_by_step(void)
{
    unsigned char *block = NULL;
    size_t size = 0;

    while (size < 200000) {
        size += 1 + size / 50;
        unsigned char *grown = opaque(realloc(block, size));
        EXPECT(grown != NULL, "expected realloc to %zu bytes to succeed", size);
        block = grown;
        block[size - 1] = (unsigned char)size;
    }
    size_t check = 0;
    while (check < 200000) {
        check += 1 + check / 50;
        CLAIM(block[check - 1] == (unsigned char)check, "expected a growing block to keep byte %zu",
              check - 1);
    }
    block[0] = 42;
    while (size > 1) {
        size -= size / 3 + 1;
        block = opaque(realloc(block, size > 0 ? size : 1));
        EXPECT(block != NULL, "expected shrinking realloc to %zu bytes to succeed", size);
    }
    CLAIM(block[0] == 42, "expected a shrinking block to keep its first byte");
    free(block);
}

/* glibc frees and returns NULL; C23 leaves it undefined; a NULL that means failure would have left
 * the block allocated. */
static void realloc_to_zero_frees_or_gives_a_block(void)
{
    void *block = opaque(malloc(100));

    errno = 0;
    void *result = opaque(realloc(block, opaque_size(0)));
    CLAIM(result != NULL || errno == 0,
          "expected realloc(p, 0) to give a block or to free without an error, errno is %d", errno);
    free(result);
    block = opaque(malloc(100));
    result = opaque(reallocarray(block, opaque_size(0), 8));
    free(result);
}

/* ---- alignment ---- */

static void every_alignment_is_kept(void)
{
    size_t sizes[] = {0, 1, 24, 100, 1000, 4096, 5000, 40000, 100000, (size_t)3 << 20};

    for (size_t align = sizeof(void *); align <= (size_t)64 << 20; align *= 2) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t size = sizes[i];
            void *posix = NULL;
            int error = posix_memalign(&posix, align, size);
            void *standard = opaque(aligned_alloc(align, size));
            void *old = opaque(memalign(align, size));

            CLAIM(error == 0 && posix != NULL,
                  "expected posix_memalign(%zu, %zu) to succeed, got %d", align, size, error);
            CLAIM(standard != NULL,
                  "expected aligned_alloc(%zu, %zu) to succeed (a size that is no "
                  "multiple of the alignment is allowed since C17)",
                  align, size);
            CLAIM(old != NULL, "expected memalign(%zu, %zu) to succeed", align, size);
            CLAIM(is_aligned(posix, align), "expected posix_memalign(%zu, %zu) aligned, got %p",
                  align, size, posix);
            CLAIM(is_aligned(standard, align), "expected aligned_alloc(%zu, %zu) aligned, got %p",
                  align, size, standard);
            CLAIM(is_aligned(old, align), "expected memalign(%zu, %zu) aligned, got %p", align,
                  size, old);
            memset(posix, 1, malloc_usable_size(posix));
            memset(standard, 2, malloc_usable_size(standard));
            memset(old, 3, malloc_usable_size(old));
            CLAIM(is_filled(posix, 1, size) && is_filled(standard, 2, size) &&
                      is_filled(old, 3, size),
                  "expected aligned blocks (%zu, %zu) not to overlap", align, size);
            free(posix);
            free(standard);
            old = opaque(realloc(old, size + 1000));
            CLAIM(old != NULL && is_filled(old, 3, size),
                  "expected realloc of an aligned block (%zu, %zu) to keep its contents", align,
                  size);
            free(old);
        }
    }
}

static void wrong_alignments_fail_with_einval(void)
{
    size_t wrong[] = {0, 1, 2, 4, 3, 12, 24, 100, 4095, SIZE_MAX, SIZE_MAX / 2};
    char mark;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        void *ptr = &mark;
        errno = 79;
        int error = posix_memalign(&ptr, opaque_size(wrong[i]), 64);
        CLAIM(error == EINVAL,
              "expected posix_memalign with alignment %zu to return EINVAL, got %d", wrong[i],
              error);
        CLAIM(ptr == &mark, "expected a failed posix_memalign to leave *ptr alone");
        if (is_ours)
            CLAIM(errno == 79, "expected posix_memalign to leave errno alone, it is %d", errno);
        if (error == 0)
            free(ptr);
        if (is_ours && wrong[i] > 4)
            FAILS_WITH(EINVAL, aligned_alloc(opaque_size(wrong[i]), 64));
    }
    void *ptr = &mark;
    int error = posix_memalign(&ptr, 64, opaque_size(SIZE_MAX - 100));
    CLAIM(error == ENOMEM, "expected posix_memalign of too much to return ENOMEM, got %d", error);
    CLAIM(ptr == &mark, "expected a failed posix_memalign to leave *ptr alone");
    error = posix_memalign(&ptr, (size_t)1 << 62, 1);
    CLAIM(error == ENOMEM || error == EINVAL,
          "expected posix_memalign with an alignment of 2^62 to fail, got %d", error);
    CLAIM(ptr == &mark, "expected a failed posix_memalign to leave *ptr alone");
}

/* memalign takes any alignment in glibc: one that is no power of two counts as the next. */
static void memalign_takes_what_glibc_takes(void)
{
    size_t aligns[] = {0, 1, 2, 4, 8};

    for (size_t i = 0; i < sizeof(aligns) / sizeof(aligns[0]); i++) {
        void *block = opaque(memalign(opaque_size(aligns[i]), 40));
        CLAIM(block != NULL || (is_ours && aligns[i] == 0), "expected memalign(%zu, 40) to succeed",
              aligns[i]);
        CLAIM(is_aligned(block, 16), "expected memalign(%zu, 40) aligned to 16, got %p", aligns[i],
              block);
        free(block);
    }
}

static void page_allocators_align_to_pages(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t sizes[] = {0, 1, page - 1, page, page + 1, 10 * page + 3};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *whole = opaque(pvalloc(sizes[i]));
        void *any = opaque(valloc(sizes[i]));
        size_t rounded = (sizes[i] + page - 1) / page * page;

        CLAIM(whole != NULL && is_aligned(whole, page), "expected pvalloc(%zu) on a page, got %p",
              sizes[i], whole);
        CLAIM(malloc_usable_size(whole) >= rounded,
              "expected pvalloc(%zu) to have whole pages, got %zu", sizes[i],
              malloc_usable_size(whole));
        CLAIM(any != NULL && is_aligned(any, page), "expected valloc(%zu) on a page, got %p",
              sizes[i], any);
        CLAIM(malloc_usable_size(any) >= sizes[i], "expected valloc(%zu) that large, got %zu",
              sizes[i], malloc_usable_size(any));
        memset(whole, 1, rounded);
        memset(any, 2, sizes[i]);
        free(whole);
        free(any);
    }
}

/* ---- the rest of the family ---- */

static void sized_frees_free(void)
{
    void (*free_with_size)(void *, size_t);
    void (*free_with_align)(void *, size_t, size_t);
    void (*old_free)(void *);

    *(void **)&free_with_size = OPTIONAL_SYMBOL(free_sized);
    *(void **)&free_with_align = OPTIONAL_SYMBOL(free_aligned_sized);
    *(void **)&old_free = OPTIONAL_SYMBOL(cfree);
    if (is_ours)
        CLAIM(free_with_size != NULL && free_with_align != NULL && old_free != NULL,
              "expected free_sized, free_aligned_sized and cfree to be there");
    for (size_t size = 0; size < 200000; size = size * 2 + 1) {
        if (free_with_size != NULL) {
            free_with_size(opaque(malloc(size)), size);
            free_with_size(opaque(calloc(1, size)), size);
            free_with_size(opaque(realloc(NULL, size)), size);
            errno = 80;
            free_with_size(NULL, size);
            CLAIM(errno == 80, "expected free_sized to keep errno");
        }
        if (free_with_align != NULL) {
            free_with_align(opaque(aligned_alloc(256, size)), 256, size);
            free_with_align(opaque(aligned_alloc(16, size)), 16, size);
            free_with_align(NULL, 16, size);
        }
        if (old_free != NULL)
            old_free(opaque(malloc(size)));
    }
}

static void mallinfo2_is_plausible(void)
{
    enum { BLOCKS = 64, SIZE = 50000 };
    void *blocks[BLOCKS];
    struct mallinfo2 before = mallinfo2();

    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = opaque(malloc(SIZE));
        memset(blocks[i], 1, SIZE);
    }
    struct mallinfo2 during = mallinfo2();
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    struct mallinfo2 after = mallinfo2();

    size_t grown = during.uordblks + during.hblkhd - before.uordblks - before.hblkhd;
    CLAIM(during.uordblks + during.hblkhd >= before.uordblks + before.hblkhd,
          "expected mallinfo2's bytes in use not to fall while %d blocks are allocated", BLOCKS);
    CLAIM(grown >= (size_t)BLOCKS * SIZE * 3 / 4 && grown <= (size_t)BLOCKS * SIZE * 2,
          "expected mallinfo2 to see %d bytes more in use, it sees %zu", BLOCKS * SIZE, grown);
    CLAIM(after.uordblks + after.hblkhd <=
              during.uordblks + during.hblkhd - (size_t)BLOCKS * SIZE / 2,
          "expected mallinfo2's bytes in use to fall after free, they went from %zu to %zu",
          during.uordblks + during.hblkhd, after.uordblks + after.hblkhd);
    CLAIM(during.arena + during.hblkhd >= during.uordblks,
          "expected mallinfo2's arena %zu + hblkhd %zu to hold the %zu bytes in use", during.arena,
          during.hblkhd, during.uordblks);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo old = mallinfo();
#pragma GCC diagnostic pop
    CLAIM(old.uordblks >= 0 && old.arena >= 0, "expected mallinfo's figures not to be negative");
}

static void malloc_info_writes_xml(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);

    EXPECT(stream != NULL, "expected open_memstream to succeed");
    int result = malloc_info(0, stream);
    fclose(stream);
    CLAIM(result == 0, "expected malloc_info to return 0, got %d", result);
    CLAIM(strncmp(text, "<malloc version=", 16) == 0,
          "expected malloc_info to begin with <malloc version=, got %.40s", text);
    CLAIM(strstr(text, "</malloc>") != NULL, "expected malloc_info to end with </malloc>");
    free(text);
    stream = fopen("/dev/null", "w");
    errno = 0;
    result = malloc_info(1, stream);
    CLAIM(result != 0, "expected malloc_info with unknown options to fail, it returned %d", result);
    fclose(stream);
}

static void tuning_calls_answer(void)
{
    void *block = opaque(malloc(300000));

    CLAIM(mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1,
          "expected mallopt(M_TRIM_THRESHOLD) to be taken");
    CLAIM(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1,
          "expected mallopt(M_MMAP_THRESHOLD) to be taken");
    CLAIM(mallopt(M_ARENA_MAX, 2) == 1, "expected mallopt(M_ARENA_MAX) to be taken");
    memset(block, 1, 300000);
    free(block);
    int result = malloc_trim(0);
    CLAIM(result == 0 || result == 1, "expected malloc_trim to return 0 or 1, got %d", result);
    block = opaque(malloc(100));
    CLAIM(block != NULL, "expected malloc to work after malloc_trim");
    free(block);
}

static void malloc_trim_gives_memory_back(void)
{
    enum { BLOCKS = 20000, SIZE = 2000 };
    void **blocks = table_map(BLOCKS * sizeof(void *));

    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = opaque(malloc(SIZE));
        memset(blocks[i], 1, SIZE);
    }
    size_t full = resident_bytes();
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    malloc_trim(0);
    size_t trimmed = resident_bytes();
    CLAIM(full == 0 || trimmed + (size_t)BLOCKS * SIZE / 2 <= full,
          "expected malloc_trim to give back half of %d freed bytes, resident went from %zu to %zu",
          BLOCKS * SIZE, full, trimmed);
}

static void malloc_stats_writes_to_stderr(void)
{
    char path[] = "/tmp/freehold-entry-XXXXXX";
    int file = mkstemp(path);
    int saved = dup(STDERR_FILENO);

    EXPECT(file >= 0 && saved >= 0, "expected a temporary file");
    unlink(path);
    dup2(file, STDERR_FILENO);
    malloc_stats();
    dup2(saved, STDERR_FILENO);
    CLAIM(lseek(file, 0, SEEK_END) > 0, "expected malloc_stats to write to standard error");
    close(file);
    close(saved);
}

static void strings_of_libc_can_be_freed(void)
{
    char *copy = opaque(strdup("a string"));
    char *line = NULL;
    size_t size = 0;
    FILE *stream = fopen("/proc/self/status", "r");

    CLAIM(copy != NULL && strcmp(copy, "a string") == 0, "expected strdup to work");
    free(copy);
    copy = NULL;
    CLAIM(asprintf(&copy, "%d", 12345) == 5, "expected asprintf to work");
    free(copy);
    CLAIM(stream != NULL && getline(&line, &size, stream) > 0, "expected getline to work");
    if (stream != NULL)
        fclose(stream);
    free(line);
    char *path = realpath("/proc/../proc", NULL);
    CLAIM(path != NULL && strcmp(path, "/proc") == 0, "expected realpath to work");
    free(path);
}

int main(void)
{
    alarm(60);
    is_ours = is_freehold();
    zero_sizes_give_distinct_blocks();
    impossible_sizes_fail_with_enomem();
    products_that_overflow_fail_with_enomem();
    every_small_size_is_usable();
    all_usable_bytes_may_be_written();
    calloc_gives_zeroes_from_used_memory();
    free_takes_null_and_keeps_errno();
    success_keeps_errno();
    realloc_keeps_what_fits();
    realloc_grows_step_by_step();
    realloc_to_zero_frees_or_gives_a_block();
    every_alignment_is_kept();
    wrong_alignments_fail_with_einval();
    memalign_takes_what_glibc_takes();
    page_allocators_align_to_pages();
    sized_frees_free();
    mallinfo2_is_plausible();
    malloc_info_writes_xml();
    tuning_calls_answer();
    malloc_trim_gives_memory_back();
    malloc_stats_writes_to_stderr();
    strings_of_libc_can_be_freed();
    heap_check("after the entry points");
    return claims_result();
}
