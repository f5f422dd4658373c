/*
 * A trace made ready for replay: addresses replaced by the numbers of slots, so that a replay needs
 * an array where the trace needs a map.
 */
#ifndef FH_LAB_PROGRAM_H
#define FH_LAB_PROGRAM_H

#include "freehold/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lab_op_kind {
    LAB_ALLOC = 1,
    LAB_FREE,
    LAB_RESIZE,
};

/* One call. 16 bytes, four in a cache line. */
struct lab_op {
    uint64_t size;     /* asked for; of a free: what the block was last asked to have */
    uint32_t slot;     /* an allocation's is empty before it, a free's after it */
    uint16_t thread;   /* modulo 65,536 */
    uint8_t kind;      /* enum lab_op_kind */
    uint8_t alignment; /* LAB_ZEROED | binary logarithm of the alignment; 0: none in particular */
};
_Static_assert(sizeof(struct lab_op) == 16, "programs are files of 16-byte operations");

enum {
    LAB_ZEROED = 0x80,
    LAB_ALIGN_MASK = 0x3f,
};

/* What a program holds, and what the trace held that a program can't. Bytes are requested bytes. */
struct lab_program_facts {
    uint64_t ops;
    uint64_t allocs, frees, resizes; /* their sum is ops */
    uint64_t slots;                  /* the most that are in use at a time */
    uint64_t peak_live_bytes;        /* after an operation; largest over the program */
    uint64_t peak_live_blocks;       /* live when the bytes were at their peak */
    uint64_t peak_op;                /* the first operation after which that was so */
    uint64_t end_live_bytes, end_live_blocks;
    uint64_t total_bytes;     /* of all allocations, and of resizes what they added */
    uint64_t largest;         /* request */
    uint64_t over_aligned;    /* allocations with an alignment over 16 */
    uint64_t zeroed;          /* allocations that must read as zero */
    uint64_t threads;         /* that had operations; numbers modulo 65,536 */
    uint64_t remote_frees;    /* by another thread than the one that allocated */
    uint64_t unknown_frees;   /* of blocks whose allocation is not in the trace: left out */
    uint64_t unknown_resizes; /* the same: replayed as allocations */
    uint64_t implied_frees;   /* put in: the address was handed out again, so its free is missing */
    uint64_t lost;            /* events that the recorder dropped */
};

struct lab_program {
    int fd; /* of the file of operations, which has no name */
    struct lab_program_facts facts;
};

/* Compiles event by event. Memory is proportional to the blocks live at a time. */
struct lab_compiler;

/* NULL without memory or a place for the file (TMPDIR, else /tmp); errno says which. */
struct lab_compiler *lab_compiler_open(void);
/* Takes the next events; 0 or a negative errno, then the program is of no use. */
int lab_compiler_add(struct lab_compiler *compiler, const struct fh_trace_event *events,
                     size_t count);
/* Ends the program and the compiler; 0 or a negative errno. The caller closes program->fd. */
int lab_compiler_finish(struct lab_compiler *compiler, struct lab_program *program);
/* Ends the compiler without a program. */
void lab_compiler_drop(struct lab_compiler *compiler);

/* All of process `index` of a trace. 0; -EBADMSG: the trace is damaged, the program holds what
 * comes before; or another negative errno and no program. `tick` (may be NULL) is called now and
 * then with the events read so far. */
int lab_compile(struct fh_trace *trace, unsigned index, struct lab_program *program,
                void (*tick)(void *context, uint64_t events), void *context);

#endif
