/* Strings in arenas: what needs libc's printf and strlen, and so is not part of the freestanding set. */
#include "base/core/fail.h"
#include "freehold/arena.h"

#include <stdio.h>
#include <string.h>

char *fh_arena_strdup(struct fh_arena *arena, const char *text)
{
    return fh_arena_dup(arena, text, strlen(text) + 1);
}

char *fh_arena_strndup(struct fh_arena *arena, const char *text, size_t max)
{
    size_t length = strnlen(text, max);
    char *copy = length < SIZE_MAX ? fh_arena_alloc(arena, length + 1) : fh_fail(FH_ENOMEM);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}

char *fh_arena_printf(struct fh_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = fh_arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

/* The first attempt writes where the next block will be: if that is long enough, the block is made around the
 * text. While memory is watched there is no such room, and the text is only measured. */
char *fh_arena_vprintf(struct fh_arena *arena, const char *format, va_list args)
{
    struct fh_arena_chunk *chunk = arena->chunk;
    char *place = (char *)chunk + chunk->used;
    size_t room = chunk->limit - chunk->used;
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(room != 0 ? place : NULL, room, format, args);
    char *text = NULL;
    if (length >= 0)
        text = fh_arena_alloc(arena, (size_t)length + 1);
    if (text != NULL && (text != place || (size_t)length >= room))
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
